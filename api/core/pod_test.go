package core

import (
	"testing"

	"skiff/api/kind/kindtest"
)

const plainPod = `
metadata: {name: web, namespace: default}
spec:
  containers:
  - {name: web, image: nginx}
`

func TestPodHolds(t *testing.T) { kindtest.Holds(t, Pod, plainPod) }
