package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"skiff/store"
)

// statusOf turns any error into the Status that the client gets. It is the one
// place where kinds of errors become HTTP codes.
func statusOf(err error) *metav1.Status {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		status := known.Status()
		if status.Status == "" {
			status.Status = metav1.StatusFailure
		}
		if status.Code == 0 {
			status.Code = http.StatusInternalServerError
			if status.Status == metav1.StatusSuccess {
				status.Code = http.StatusOK
			}
		}
		return typed(&status)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return typed(&apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0).ErrStatus)
	case errors.Is(err, context.Canceled):
		return typed(&apierrors.NewTimeoutError("the request was canceled", 0).ErrStatus)
	case errors.Is(err, store.ErrNoSpace):
		return typed(&apierrors.NewInternalError(err).ErrStatus)
	case errors.Is(err, store.ErrUnknown):
		return typed(&apierrors.NewTimeoutError("it is not known whether the write happened: read before trying again", 0).ErrStatus)
	}
	return typed(&metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonUnknown, Message: err.Error()})
}

func typed(s *metav1.Status) *metav1.Status {
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return s
}

func failure(code int, reason metav1.StatusReason, format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
		Message: fmt.Sprintf(format, args...), Details: &metav1.StatusDetails{},
	}}
}

func notFoundHere() error {
	return failure(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
}

func methodNotAllowed() error {
	return failure(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
}

func notAcceptable(accepted []string) error {
	return failure(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: %s", strings.Join(accepted, ", "))
}

func unsupportedMediaType(accepted []string) error {
	return failure(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: %s", strings.Join(accepted, ", "))
}

func tooManyRequests() error {
	return apierrors.NewTooManyRequests("Too many requests, please try again later.", 1)
}

// decodeDeleteOptions reads DeleteOptions of any group in a body's media type.
func decodeDeleteOptions(media string, body []byte, into *metav1.DeleteOptions) error {
	switch media {
	case runtime.ContentTypeProtobuf:
		var unknown runtime.Unknown
		if len(body) < 4 || string(body[:4]) != "k8s\x00" {
			return fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
		}
		if err := unknown.Unmarshal(body[4:]); err != nil {
			return err
		}
		if err := isDeleteOptions(unknown.TypeMeta.Kind); err != nil {
			return err
		}
		return into.Unmarshal(unknown.Raw)
	case runtime.ContentTypeYAML:
		asJSON, err := yaml.YAMLToJSON(body)
		if err != nil {
			return err
		}
		body = asJSON
	}
	if err := json.Unmarshal(body, into); err != nil {
		return err
	}
	err := isDeleteOptions(into.Kind)
	into.TypeMeta = metav1.TypeMeta{}
	return err
}

func isDeleteOptions(kind string) error {
	if kind != "" && kind != "DeleteOptions" {
		return fmt.Errorf("decoded object cannot be converted to DeleteOptions: it is a %s", kind)
	}
	return nil
}
