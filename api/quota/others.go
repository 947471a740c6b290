package quota

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
)

// creates and updates of the object itself.
func written(_, subresource string, _, _ runtime.Object) bool { return subresource == "" }

// Services.

var services = &Measure{
	counts: func(name corev1.ResourceName) bool {
		switch name {
		case "count/services", corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
			return true
		}
		return false
	},
	use: func(obj runtime.Object, _ time.Time) corev1.ResourceList {
		ports, balancers := nodePorts(obj.(*corev1.Service))
		return corev1.ResourceList{"count/services": number(1), corev1.ResourceServices: number(1),
			corev1.ResourceServicesNodePorts: number(ports), corev1.ResourceServicesLoadBalancers: number(balancers)}
	},
	charged: written,
}

// nodePorts returns how many node ports a service will have (it may not have them
// yet), and whether it takes a load balancer.
func nodePorts(svc *corev1.Service) (ports, balancers int) {
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return len(svc.Spec.Ports), 0
	case corev1.ServiceTypeLoadBalancer:
		if auto := svc.Spec.AllocateLoadBalancerNodePorts; auto == nil || *auto {
			return len(svc.Spec.Ports), 1
		}
		for i := range svc.Spec.Ports {
			if svc.Spec.Ports[i].NodePort != 0 {
				ports++
			}
		}
		return ports, 1
	}
	return 0, 0
}

// Persistent volume claims, all of them and those of each storage class.

const ofClass = ".storageclass.storage.k8s.io/"

var claims = &Measure{
	counts: func(name corev1.ResourceName) bool {
		switch name {
		case "count/persistentvolumeclaims", corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage:
			return true
		}
		return strings.HasSuffix(string(name), ofClass+string(corev1.ResourcePersistentVolumeClaims)) ||
			strings.HasSuffix(string(name), ofClass+string(corev1.ResourceRequestsStorage))
	},
	use: func(obj runtime.Object, _ time.Time) corev1.ResourceList {
		return useClaim(obj.(*corev1.PersistentVolumeClaim))
	},
	inScope: func(scope *corev1.ScopedResourceSelectorRequirement, obj runtime.Object) bool {
		return scope.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass &&
			selects(scope, attributesClasses(obj.(*corev1.PersistentVolumeClaim))...)
	},
	charged: func(_, subresource string, _, old runtime.Object) bool {
		return subresource == "" || subresource == "status" && old != nil
	},
}

func useClaim(claim *corev1.PersistentVolumeClaim) corev1.ResourceList {
	use := corev1.ResourceList{"count/persistentvolumeclaims": number(1), corev1.ResourcePersistentVolumeClaims: number(1)}
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	if class != "" {
		use[corev1.ResourceName(class+ofClass+string(corev1.ResourcePersistentVolumeClaims))] = number(1)
	}
	amount, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return use
	}
	// A claim that grows counts for what it asks for; one whose growth was taken
	// back, for what it has been given.
	if given, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && given.Cmp(amount) > 0 {
		amount = given
	}
	amount = whole(amount)
	use[corev1.ResourceRequestsStorage] = amount
	if class != "" {
		use[corev1.ResourceName(class+ofClass+string(corev1.ResourceRequestsStorage))] = amount
	}
	return use
}

// whole rounds up to whole bytes.
func whole(amount resource.Quantity) resource.Quantity {
	amount = amount.DeepCopy()
	amount.RoundUp(0)
	return amount
}

// attributesClasses are those that a claim has, asks for, or is on its way to.
func attributesClasses(claim *corev1.PersistentVolumeClaim) (names []string) {
	for _, name := range []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName} {
		if name != nil && *name != "" {
			names = append(names, *name)
		}
	}
	if change := claim.Status.ModifyVolumeStatus; change != nil && change.TargetVolumeAttributesClassName != "" {
		names = append(names, change.TargetVolumeAttributesClassName)
	}
	return names
}

// Resource claims, all of them and the devices of each class.

var deviceClaims = &Measure{
	counts: func(name corev1.ResourceName) bool {
		return name == "count/resourceclaims.resource.k8s.io" || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass)
	},
	use: func(obj runtime.Object, _ time.Time) corev1.ResourceList {
		return useDevices(obj.(*resourcev1.ResourceClaim))
	},
	charged: written,
}

func useDevices(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	use := corev1.ResourceList{"count/resourceclaims.resource.k8s.io": number(1)}
	most := func(class string, mode resourcev1.DeviceAllocationMode, count int64) corev1.ResourceList {
		switch mode {
		case resourcev1.DeviceAllocationModeAll:
			count = resourcev1.AllocationResultsMaxSize // the most that it can be
		case resourcev1.DeviceAllocationModeExactCount:
		default:
			count = 0
		}
		return corev1.ResourceList{corev1.ResourceName(class + corev1.ResourceClaimsPerClass): number(int(count))}
	}
	for i := range claim.Spec.Devices.Requests {
		request := &claim.Spec.Devices.Requests[i]
		if exactly := request.Exactly; exactly != nil {
			use = Add(use, most(exactly.DeviceClassName, exactly.AllocationMode, exactly.Count))
			continue
		}
		// One of several is given: of each class, at most what the greediest asks for.
		each := corev1.ResourceList{}
		for _, sub := range request.FirstAvailable {
			for name, amount := range most(sub.DeviceClassName, sub.AllocationMode, sub.Count) {
				if have, ok := each[name]; !ok || amount.Cmp(have) > 0 {
					each[name] = amount
				}
			}
		}
		use = Add(use, each)
	}
	return use
}
