package parts

import (
	"testing"

	"skiff/conformance/upstream"
	"skiff/skifftest"
)

// Upstream's kube-scheduler and kube-controller-manager do their work on Skiff's API server, each alone beside our other half and
// both together. They have the rights of their place and nothing else.
func TestUpstreamsComponentsOnSkiff(t *testing.T) {
	const controllers, scheduler = "kube-controller-manager", "kube-scheduler"
	t.Parallel()
	for _, c := range []struct {
		name                   string
		controllers, scheduler bool
	}{
		{"the scheduler", false, true},
		{"the controllers", true, false},
		{"both", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			folder := programs(t, controllers, scheduler)
			k := skifftest.New(t, skifftest.Config{Nodes: 2, Listen: true, NoControllers: c.controllers, NoScheduler: c.scheduler})
			config := upstream.Config{Bin: folder, Dir: t.TempDir()}
			if c.controllers {
				p, err := upstream.RunControllers(config, k.User("system:"+controllers), "", "", "")
				ok(t, err)
				stop(t, p)
			}
			if c.scheduler {
				p, err := upstream.RunScheduler(config, k.User("system:"+scheduler))
				ok(t, err)
				stop(t, p)
			}
			admin := open(t, k.RESTConfig())
			admin.account("default")
			admin.tellsAStory("web")
			if c.controllers {
				admin.namespaceComesAndGoes("shop")
			}
			for component, theirs := range map[string]bool{controllers: c.controllers, scheduler: c.scheduler} {
				if holder := admin.leads(component); (holder != "skifftest") != theirs {
					t.Errorf("%s is led by %q", component, holder)
				}
			}
		})
	}
}
