// Command kubectl is stock kubectl, built from its module, for machines where none is installed. `make kubectl` puts it into bin/.
// Nothing of it is ours, and Skiff never calls it.
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	_ "k8s.io/client-go/plugin/pkg/client/auth" // the ways to sign in that kubeconfig files name
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // prints it as kubectl does, and exits with its code
	}
}
