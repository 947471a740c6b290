package main

import (
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/cluster/local"
)

func nodeCommand() *cobra.Command {
	c := &cobra.Command{Use: "node", GroupID: "cluster", Short: "Add, remove, stop and start nodes"}
	c.AddCommand(
		nodeAction("add [NODE]", "Add a node", cobra.MaximumNArgs(1), func(cmd *cobra.Command, dir string, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			n, err := local.CommandsOf(dir).AddNode(cmd.Context(), name)
			if err == nil {
				fmt.Printf("Node %s is starting\n", n.Name)
			}
			return err
		}),
		nodeAction("remove NODE", "End a node with all its containers, and forget it", cobra.ExactArgs(1), removeNode),
		nodeAction("stop NODE", "Switch a node off, with all its containers", cobra.ExactArgs(1), func(cmd *cobra.Command, dir string, args []string) error {
			return local.CommandsOf(dir).StopNode(cmd.Context(), args[0])
		}),
		nodeAction("start NODE", "Switch a node on again", cobra.ExactArgs(1), func(cmd *cobra.Command, dir string, args []string) error {
			return local.CommandsOf(dir).StartNode(cmd.Context(), args[0])
		}),
	)
	return c
}

func nodeAction(use, short string, args cobra.PositionalArgs, do func(cmd *cobra.Command, dir string, args []string) error) *cobra.Command {
	var w which
	c := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		dir, err := w.path()
		if err != nil {
			return err
		}
		if _, err := local.Load(dir); err != nil {
			return notThere(err)
		}
		return notThere(do(cmd, dir, args))
	}}
	w.flags(c)
	return c
}

// removeNode ends the node first and deletes its object then, so that nobody
// places pods on what is going.
func removeNode(cmd *cobra.Command, dir string, args []string) error {
	if err := local.CommandsOf(dir).RemoveNode(cmd.Context(), args[0]); err != nil {
		return err
	}
	c, _, err := admin(dir)
	if err != nil {
		return err
	}
	err = c.Delete(cmd.Context(), api.For[*corev1.Node](), "", args[0], metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("the node has ended, but its object remains (kubectl delete node %s): %w", args[0], err)
	}
	return nil
}
