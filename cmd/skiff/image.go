package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"

	"skiff/cluster"
	"skiff/cluster/local"
	"skiff/image"
	"skiff/registry"
)

func imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", GroupID: "tools", Short: "Build images, load them onto the nodes, list them"}
	c.AddCommand(imageBuildCommand(), imageLoadCommand(), imageListCommand())
	return c
}

// target finds the cluster's registry.
func target(w which) (dir string, c *registry.Client, err error) {
	if dir, err = w.path(); err != nil {
		return "", nil, err
	}
	spec, err := local.Load(dir)
	if err != nil {
		return "", nil, notThere(err)
	}
	if spec.Runtime != local.Containerd {
		return "", nil, fmt.Errorf("cluster %s only simulates: its nodes need no images", spec.Name)
	}
	c, err = registry.NewClient(registry.ClientConfig{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", spec.RegistryPort)})
	return dir, c, err
}

// distribute pushes an image and has all nodes pull it.
func distribute(ctx context.Context, dir string, c *registry.Client, ref string, what remote.Taggable) error {
	if _, err := c.Push(ctx, ref, what, nil); err != nil {
		return err
	}
	if err := cluster.PullOnNodes(ctx, dir, ref); err != nil {
		return err
	}
	fmt.Printf("%s is on all nodes\n", ref)
	return nil
}

func imageBuildCommand() *cobra.Command {
	var w which
	var tag string
	var o image.Options
	c := &cobra.Command{
		Use:   "build --tag REF PATH",
		Short: "Make an image from a Go main package, a static binary, or a directory or tar as root file system",
		Long: `Make an image without Docker, and put it onto all nodes. PATH is a Go main package
(its program becomes the entrypoint), a static binary, or a directory or tar that is
the root file system.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if tag == "" {
				return errors.Join(errors.New("give the image a name with --tag, such as example/web:v1"), exitCode(2))
			}
			dir, registry, err := target(w)
			if err != nil {
				return err
			}
			img, err := image.Build(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			return distribute(cmd.Context(), dir, registry, tag, img)
		},
	}
	w.flags(c)
	c.Flags().StringVarP(&tag, "tag", "t", "", "the image's name, as pods will say it")
	imageOptions(c, &o)
	return c
}

func imageLoadCommand() *cobra.Command {
	var w which
	var tag string
	c := &cobra.Command{
		Use:   "load FILE|DIR",
		Short: "Put the images of an OCI layout or a `docker save` archive onto all nodes",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, c, err := target(w)
			if err != nil {
				return err
			}
			archive, err := image.Load(args[0])
			if err != nil {
				return err
			}
			defer archive.Close()
			return loadAll(cmd.Context(), dir, c, archive, tag)
		},
	}
	w.flags(c)
	c.Flags().StringVarP(&tag, "tag", "t", "", "name of an image that the archive does not name")
	return c
}

func loadAll(ctx context.Context, dir string, c *registry.Client, archive *image.Archive, tag string) error {
	for _, found := range archive.Images {
		names := found.Names
		if tag != "" && len(archive.Images) == 1 {
			names = []string{tag}
		}
		if len(names) == 0 {
			return errors.Join(errors.New("the archive does not name its image: give --tag"), exitCode(2))
		}
		var what remote.Taggable = found.Image
		if found.Index != nil {
			what = found.Index
		}
		for _, name := range names {
			if err := distribute(ctx, dir, c, name, what); err != nil {
				return err
			}
		}
	}
	return nil
}

func imageListCommand() *cobra.Command {
	var w which
	var o output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the images in the cluster's registry",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, c, err := target(w)
			if err != nil {
				return err
			}
			images, err := c.List(cmd.Context())
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), images, func(out io.Writer) { listImages(out, images) })
		},
	}
	w.flags(c)
	o.flag(c)
	return c
}

func listImages(out io.Writer, images []registry.Image) {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tDIGEST\tSIZE")
	for _, i := range images {
		fmt.Fprintf(t, "%s\t%s\t%.1f MB\n", i.Repository+":"+i.Tag, i.Digest, float64(i.Size)/1e6)
	}
	t.Flush()
}

// imageOptions are the flags that say how an image runs.
func imageOptions(c *cobra.Command, o *image.Options) {
	c.Flags().StringArrayVar(&o.Entrypoint, "entrypoint", nil, "what runs, one flag per word")
	c.Flags().StringArrayVar(&o.Cmd, "cmd", nil, "its arguments, one flag per word")
	c.Flags().StringArrayVar(&o.Env, "env", nil, "environment: NAME=VALUE")
	c.Flags().StringVar(&o.WorkDir, "workdir", "", "where it runs")
	c.Flags().StringVar(&o.User, "user", "", "as whom it runs: UID[:GID] or a name")
	c.Flags().StringToStringVar(&o.Labels, "label", nil, "labels: NAME=VALUE")
}
