package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// identify finds out who makes the request, and as whom they act.
func (s *Server) identify(ctx context.Context, r *Request) error {
	if r.HTTP.Context().Value(ownRequest{}) != nil {
		r.User = self
		return nil
	}
	who, ok, err := s.authn.AuthenticateRequest(r.HTTP)
	if err != nil || !ok {
		if err != nil {
			s.log.Debug("not authenticated", "path", r.HTTP.URL.Path, "error", err)
		}
		return apierrors.NewUnauthorized("Unauthorized")
	}
	r.User = who.User
	r.HTTP.Header.Del("Authorization") // never goes on to a node or a pod
	acted, err := s.impersonated(ctx, r.HTTP.Header, who.User)
	if err != nil {
		return err
	}
	if acted != nil {
		s.log.Debug("impersonation", "user", who.User.GetName(), "as", acted.GetName())
		r.User = acted
	}
	return nil
}

// impersonated returns the user that the headers ask to act as, if the asker may; nil: none.
func (s *Server) impersonated(ctx context.Context, header http.Header, asker user.Info) (user.Info, error) {
	as, grants, err := impersonation(header)
	if err != nil || as == nil {
		return nil, err
	}
	for _, g := range grants {
		g.User, g.Verb, g.ResourceRequest = asker, "impersonate", true
		decision, reason, err := s.authz.Authorize(ctx, g)
		if err != nil || decision != authorizer.DecisionAllow {
			return nil, forbiddenAttributes(g, reason)
		}
	}
	for name := range header {
		if strings.HasPrefix(name, "Impersonate-") {
			header.Del(name)
		}
	}
	return as, nil
}

// impersonation reads the headers: the user that they describe, and what one
// must be allowed to impersonate for it. All of it or nothing.
func impersonation(header http.Header) (*user.DefaultInfo, []authorizer.AttributesRecord, error) {
	name := header.Get(authenticationv1.ImpersonateUserHeader)
	groups := header[authenticationv1.ImpersonateGroupHeader]
	uid := header.Get(authenticationv1.ImpersonateUIDHeader)
	extra := impersonatedExtra(header)
	if name == "" {
		if len(groups) > 0 || uid != "" || len(extra) > 0 {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("requested %s without impersonating a user", describeImpersonation(groups, uid, extra)))
		}
		return nil, nil, nil
	}
	as := &user.DefaultInfo{Name: name, UID: uid, Groups: slices.Clone(groups), Extra: extra}
	var grants []authorizer.AttributesRecord
	if namespace, account, err := serviceaccount.SplitUsername(name); err == nil {
		grants = append(grants, authorizer.AttributesRecord{Resource: "serviceaccounts", Namespace: namespace, Name: account})
		if len(groups) == 0 {
			as.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	} else {
		grants = append(grants, authorizer.AttributesRecord{Resource: "users", Name: name})
	}
	for _, g := range groups {
		grants = append(grants, authorizer.AttributesRecord{Resource: "groups", Name: g})
	}
	for key, values := range extra {
		for _, v := range values {
			grants = append(grants, authorizer.AttributesRecord{APIGroup: authenticationv1.GroupName, APIVersion: "v1", Resource: "userextras", Subresource: key, Name: v})
		}
	}
	if uid != "" {
		grants = append(grants, authorizer.AttributesRecord{APIGroup: authenticationv1.GroupName, APIVersion: "v1", Resource: "uids", Name: uid})
	}
	as.Groups = withStanding(as.Name, as.Groups)
	return as, grants, nil
}

// withStanding adds the group that says whether a user is known, where the
// groups do not say it themselves.
func withStanding(name string, groups []string) []string {
	standing := user.AllAuthenticated
	if name == user.Anonymous {
		standing = user.AllUnauthenticated
	} else if slices.Contains(groups, user.AllUnauthenticated) {
		return groups
	}
	if slices.Contains(groups, standing) {
		return groups
	}
	return append(groups, standing)
}

func impersonatedExtra(header http.Header) map[string][]string {
	var extra map[string][]string
	for name, values := range header {
		key, ok := strings.CutPrefix(name, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if decoded, err := url.PathUnescape(key); err == nil {
			key = decoded
		}
		if extra == nil {
			extra = map[string][]string{}
		}
		extra[key] = append(extra[key], values...)
	}
	return extra
}

func describeImpersonation(groups []string, uid string, extra map[string][]string) string {
	var parts []string
	if len(groups) > 0 {
		parts = append(parts, fmt.Sprintf("groups %v", groups))
	}
	if uid != "" {
		parts = append(parts, fmt.Sprintf("uid %q", uid))
	}
	if len(extra) > 0 {
		parts = append(parts, fmt.Sprintf("extra %v", extra))
	}
	return strings.Join(parts, ", ")
}
