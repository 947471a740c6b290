package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/api"
	"skiff/client"
)

// How often the server behind an APIService is asked whether it answers, and how
// long it may take to.
const (
	askWell  = 30 * time.Second       // while it does
	askIll   = 500 * time.Millisecond // while it does not, at first; up to four times that
	askLimit = 5 * time.Second
)

// keepAvailability finds out whether the servers behind APIServices answer, writes
// that into their status, and takes in what they serve. Each server of a cluster
// asks by itself, since each must reach them; they write the same.
func (s *Server) keepAvailability(ctx context.Context) error {
	if s.table(apiServiceRow) == nil {
		return nil
	}
	defer s.aggregation.close()
	services := map[string]*asked{}
	feed := s.Client(self, self.Name).Follow(ctx, client.Source{Resource: apiServiceRow})
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case batch, ok := <-feed.C:
			if !ok {
				return nil
			}
			for _, c := range batch.Changes {
				learnAPIService(services, c)
			}
			s.aggregation.forget(func(name string) bool { return services[name] != nil })
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		next := time.Now().Add(time.Hour)
		for _, a := range services {
			if !time.Now().Before(a.at) {
				s.askBehind(ctx, a)
			}
			if a.at.Before(next) {
				next = a.at
			}
		}
		timer.Reset(time.Until(next))
	}
}

// asked is an APIService whose server is asked.
type asked struct {
	service *apiregistrationv1.APIService
	at      time.Time     // when to ask again
	pause   time.Duration // since it was asked last
}

// learnAPIService takes in a change; one of the status alone is our own.
func learnAPIService(services map[string]*asked, c client.Change) {
	service := c.Object().(*apiregistrationv1.APIService)
	have := services[service.Name]
	switch {
	case c.New == nil || service.Spec.Service == nil:
		delete(services, service.Name)
	case have != nil && have.service.UID == service.UID && equalSpec(have.service, service):
		have.service = service
	default:
		services[service.Name] = &asked{service: service, pause: askIll}
	}
}

func equalSpec(a, b *apiregistrationv1.APIService) bool {
	return a.Generation == b.Generation && jsonEqual(a.Spec, b.Spec)
}

func jsonEqual(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// askBehind asks one server, and writes what came of it.
func (s *Server) askBehind(ctx context.Context, a *asked) {
	condition := apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue,
		Reason: "Passed", Message: "all checks passed"}
	found, err := s.findBehind(ctx, a.service)
	a.pause = askWell
	if err != nil {
		condition.Status = apiregistrationv1.ConditionFalse
		condition.Reason, condition.Message = err.reason, err.message
		a.pause = min(2*max(a.pause/2, askIll), 4*askIll)
	}
	a.at = time.Now().Add(a.pause)
	s.aggregation.note(a.service, found)
	if err := s.writeAvailability(ctx, a.service, condition); err != nil && ctx.Err() == nil {
		s.log.Debug("availability is not written", "apiservice", a.service.Name, "error", err)
		a.at = time.Now().Add(askIll)
	}
}

// unavailable is why a server does not answer.
type unavailable struct{ reason, message string }

// findBehind checks each hop to the server behind an APIService, and returns what it
// serves.
func (s *Server) findBehind(ctx context.Context, service *apiregistrationv1.APIService) (*metav1.APIResourceList, *unavailable) {
	ref := service.Spec.Service
	obj, ok := reader{s}.Get(api.For[*corev1.Service](), ref.Namespace, ref.Name)
	if !ok {
		return nil, &unavailable{"ServiceNotFound", fmt.Sprintf("service/%s in %q is not present", ref.Name, ref.Namespace)}
	}
	if u := s.endpointsBehind(obj.(*corev1.Service), ref); u != nil {
		return nil, u
	}
	path := "/apis/" + service.Spec.Group + "/" + service.Spec.Version
	failed := func(why any) *unavailable {
		return &unavailable{"FailedDiscoveryCheck", fmt.Sprintf("failing or missing response from https://%s%s: %v", hostOf(ref), path, why)}
	}
	entry, ok := s.table(apiServiceRow).Get("", service.Name)
	if !ok {
		return nil, failed("the APIService is gone")
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	answer, err := s.getBehind(ctx, service, entry, path)
	if err != nil {
		return nil, failed(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	switch {
	case err != nil:
		return nil, failed(err)
	case answer.StatusCode < http.StatusOK || answer.StatusCode >= http.StatusMultipleChoices:
		return nil, failed(fmt.Sprintf("bad status from https://%s%s: %d", hostOf(ref), path, answer.StatusCode))
	}
	list := new(metav1.APIResourceList)
	if err := json.Unmarshal(body, list); err != nil || list.GroupVersion != service.Spec.Group+"/"+service.Spec.Version {
		list = &metav1.APIResourceList{GroupVersion: service.Spec.Group + "/" + service.Spec.Version} // it answers, but tells nothing
	}
	return list, nil
}

// endpointsBehind checks that the service has the port, and somebody behind it.
func (s *Server) endpointsBehind(service *corev1.Service, ref *apiregistrationv1.ServiceReference) *unavailable {
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	portName, found := "", false
	for _, p := range service.Spec.Ports {
		if int(p.Port) == portOf(ref) {
			portName, found = p.Name, true
		}
	}
	if !found {
		return &unavailable{"ServicePortError", fmt.Sprintf("service/%s in %q is not listening on port %d", ref.Name, ref.Namespace, portOf(ref))}
	}
	slices := s.endpointSlices(ref.Namespace, labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: ref.Name}))
	if len(slices) == 0 {
		return &unavailable{"EndpointsNotFound", fmt.Sprintf("cannot find endpointslices for service/%s in %q", ref.Name, ref.Namespace)}
	}
	for _, slice := range slices {
		for _, e := range slice.Endpoints {
			if slicePort(slice, portName) != 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				return nil
			}
		}
	}
	return &unavailable{"MissingEndpoints", fmt.Sprintf("endpointslices for service/%s in %q have no addresses with port name %q", ref.Name, ref.Namespace, portName)}
}

// writeAvailability writes the condition, if it is not there already.
func (s *Server) writeAvailability(ctx context.Context, service *apiregistrationv1.APIService, condition apiregistrationv1.APIServiceCondition) error {
	c := s.Client(self, self.Name)
	now, err := client.Get[*apiregistrationv1.APIService](ctx, c, "", service.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	next := now.DeepCopy()
	condition.LastTransitionTime = metav1.Now().Rfc3339Copy()
	kept := next.Status.Conditions[:0]
	for _, have := range next.Status.Conditions {
		if have.Type != condition.Type {
			kept = append(kept, have)
			continue
		}
		if have.Status == condition.Status {
			if have.Reason == condition.Reason && have.Message == condition.Message {
				return nil
			}
			condition.LastTransitionTime = have.LastTransitionTime
		}
	}
	next.Status.Conditions = append(kept, condition)
	_, err = client.Update(ctx, c, "status", next)
	return err
}
