package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"skiff/store"
)

// How servers join each other. A server that joins knows the cluster by its token:
// it checks the pin, and sends joinPath what it is. Who may ask for that path a role
// decides (skiff:server-joiner), which only server tokens have. The answer carries
// the cluster's keys, and makes the asker a learner in etcd; when it has caught up
// it gives itself its vote.
const (
	joinPath    = "/skiff/join"
	membersPath = "/skiff/members"
)

// joinRequest is what a joining server says of itself.
type joinRequest struct {
	Name     string `json:"name"`
	External bool   `json:"externalEtcd,omitempty"` // it uses the cluster's external etcd
	PeerURL  string `json:"peerURL,omitempty"`
}

// joinAnswer makes it one of the cluster's servers.
type joinAnswer struct {
	Settings Settings            `json:"settings"`
	Keys     map[string][]byte   `json:"keys"` // by file, in keyFiles
	Members  map[string][]string `json:"members,omitempty"`
}

// keyFiles are what servers share, in the directory keys.
func keyFiles(external bool) []string {
	files := []string{"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key"}
	if !external {
		files = append(files, "etcd-ca.crt", "etcd-ca.key")
	}
	return files
}

// refusal is an error with the HTTP status that tells it.
type refusal struct {
	code int
	error
}

// serveJoin answers joinPath. Who gets here may be a server.
func (s *server) serveJoin(w http.ResponseWriter, r *http.Request) {
	var asked joinRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&asked); err != nil {
		http.Error(w, "the request is not understood: "+err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := s.admit(r.Context(), asked)
	if err != nil {
		code := http.StatusServiceUnavailable
		var refused refusal
		if errors.As(err, &refused) {
			code = refused.code
		}
		s.log.Warn("a server does not join", "name", asked.Name, "from", r.RemoteAddr, "reason", err)
		http.Error(w, err.Error(), code)
		return
	}
	s.log.Info("a server joins", "name", asked.Name, "from", r.RemoteAddr)
	writeAnswer(w, answer)
}

func writeAnswer(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(data)
}

// admit makes the asker a member.
func (s *server) admit(ctx context.Context, asked joinRequest) (*joinAnswer, error) {
	switch {
	case asked.Name == "" || asked.Name == s.record.Name:
		return nil, refusal{http.StatusConflict, fmt.Errorf("a server has the name %q already: give --node-name", asked.Name)}
	case asked.External && !s.record.External:
		return nil, refusal{http.StatusBadRequest, errors.New("the cluster's etcd is embedded: leave --etcd-endpoints out")}
	case !asked.External && s.record.External:
		return nil, refusal{http.StatusBadRequest, errors.New("the cluster's etcd is external: give the same --etcd-endpoints as its other servers")}
	}
	answer := &joinAnswer{Settings: s.record.Settings, Keys: map[string][]byte{}}
	for _, name := range keyFiles(s.record.External) {
		data, err := os.ReadFile(filepath.Join(s.file("keys"), name))
		if err != nil {
			return nil, fmt.Errorf("read the cluster's keys: %w", err)
		}
		answer.Keys[name] = data
	}
	if s.record.External {
		return answer, nil
	}
	members, err := s.addMember(ctx, asked)
	answer.Members = members
	return answer, err
}

// addMember adds the asker to etcd, unless an answer that got lost has done so.
func (s *server) addMember(ctx context.Context, asked joinRequest) (map[string][]string, error) {
	u, err := url.Parse(asked.PeerURL)
	if err != nil || u.Scheme != "https" || u.Port() == "" {
		return nil, refusal{http.StatusBadRequest, fmt.Errorf("peer URL %q is not https://HOST:PORT", asked.PeerURL)}
	}
	members, err := s.etcd.Members(ctx)
	if err != nil {
		return nil, err
	}
	there := false
	all := map[string][]string{asked.Name: {asked.PeerURL}}
	for _, m := range members {
		same := slices.Contains(m.PeerURLs, asked.PeerURL)
		switch {
		case m.Name == asked.Name || same && m.Name != "":
			return nil, refusal{http.StatusConflict, fmt.Errorf("the cluster has the server %s at %v: if its data is lost, `skiff server remove %s` on another server and join again", m.Name, m.PeerURLs, m.Name)}
		case same:
			there = true
		case m.Name == "":
			return nil, refusal{http.StatusServiceUnavailable, fmt.Errorf("another server, at %v, is about to join: wait for it, or `skiff server remove` it", m.PeerURLs)}
		default:
			all[m.Name] = m.PeerURLs
		}
	}
	if there {
		return all, nil
	}
	_, err = s.etcd.AddMember(ctx, []string{asked.PeerURL})
	return all, err
}

// vote gives this member its vote, if it is only a learner yet.
func (s *server) vote(ctx context.Context) error {
	for told := false; ; {
		members, err := s.etcd.Members(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(members, func(m store.Member) bool { return slices.Contains(m.PeerURLs, s.record.PeerURL) })
		if i < 0 {
			return fmt.Errorf("this server, %s, has been removed from its cluster: delete %s and join anew", s.record.Name, ServerDir(s.c.DataDir))
		}
		if !members[i].Learner {
			return nil
		}
		err = s.etcd.PromoteMember(ctx, members[i].ID)
		if err == nil {
			s.log.Info("this server has a vote now", "servers", len(members))
			continue
		}
		if !told {
			s.log.Info("this server is catching up with the others", "reason", err)
			told = true
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// joinCluster asks the server that the user names for the cluster's keys, and
// keeps them with the record of what this server is.
func (s *server) joinCluster(ctx context.Context) error {
	if s.c.Token == "" {
		return errors.New("a server joins with a token of `skiff token create --server`: give --token")
	}
	token, err := ParseJoinToken(s.c.Token)
	if err != nil {
		return err
	}
	at, err := hostPort(s.c.Join)
	if err != nil {
		return err
	}
	ca, err := (&agent{log: s.log}).awaitAuthority(ctx, []string{at}, token.Pin)
	if err != nil {
		return err
	}
	asked := joinRequest{Name: s.c.Name, External: len(s.c.Etcd.Endpoints) > 0}
	if !asked.External {
		asked.PeerURL = s.peerURL()
	}
	answer, err := askToJoin(ctx, at, ca, token, asked)
	for ; errors.Is(err, errLater); answer, err = askToJoin(ctx, at, ca, token, asked) {
		s.log.Warn("the server does not let this one join yet", "server", at, "reason", err)
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("join the cluster of %s: %w", at, err)
	}
	if err := answer.Settings.differs(s.wanted(answer.Settings)); err != nil {
		return err
	}
	return s.becomeMember(asked, answer)
}

// becomeMember keeps the answer: keys first, since the record says that they are
// there.
func (s *server) becomeMember(asked joinRequest, answer *joinAnswer) error {
	for _, name := range keyFiles(asked.External) {
		if len(answer.Keys[name]) == 0 {
			return fmt.Errorf("the server's answer has no %s: is it of the same version?", name)
		}
		if err := writeWhole(filepath.Join(s.file("keys"), name), answer.Keys[name], 0o600); err != nil {
			return err
		}
	}
	id, err := randomText(8)
	if err != nil {
		return err
	}
	s.record = record{
		Version: recordVersion, Name: asked.Name, ID: id, Settings: answer.Settings,
		External: asked.External, PeerURL: asked.PeerURL, Members: answer.Members, Joined: true,
	}
	return s.saveRecord()
}

// errLater says that asking again may help.
var errLater = errors.New("not now")

// askToJoin sends one request.
func askToJoin(ctx context.Context, at string, ca *x509.Certificate, token JoinToken, asked joinRequest) (*joinAnswer, error) {
	body, err := json.Marshal(asked)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+at+joinPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token.bearer())
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLater, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLater, err)
	}
	reason := string(bytes.TrimSpace(data))
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return nil, fmt.Errorf("the cluster does not know the token %s, or it has expired: make another with `skiff token create --server`", token.ID)
	case http.StatusForbidden:
		return nil, fmt.Errorf("the token %s is not a server's: make one with `skiff token create --server`", token.ID)
	case http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%w: %s", errLater, reason)
	default:
		return nil, errors.New(reason)
	}
	answer := &joinAnswer{}
	if err := json.Unmarshal(data, answer); err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	return answer, nil
}

// MemberInfo is what is shown of a server.
type MemberInfo struct {
	Name    string `json:"name"`
	PeerURL string `json:"peerURL"`
	State   string `json:"state"` // leader (of etcd), voter, learner or joining
}

// serveMembers answers membersPath, for administrators: who is there, and with
// POST {"remove": NAME} the end of one.
func (s *server) serveMembers(w http.ResponseWriter, r *http.Request) {
	if s.record.External {
		http.Error(w, "the cluster's etcd is external: its members are its own matter", http.StatusBadRequest)
		return
	}
	members, err := s.etcd.Members(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if r.Method == http.MethodPost {
		s.removeMember(w, r, members)
		return
	}
	out := []MemberInfo{}
	for _, m := range members {
		info := MemberInfo{Name: m.Name, State: "voter"}
		if len(m.PeerURLs) > 0 {
			info.PeerURL = m.PeerURLs[0]
		}
		switch {
		case m.Name == "":
			info.State = "joining"
		case m.Learner:
			info.State = "learner"
		case m.Leader:
			info.State = "leader"
		}
		out = append(out, info)
	}
	writeAnswer(w, out)
}

func (s *server) removeMember(w http.ResponseWriter, r *http.Request, members []store.Member) {
	var asked struct {
		Remove string `json:"remove"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&asked); err != nil {
		http.Error(w, "the request is not understood: "+err.Error(), http.StatusBadRequest)
		return
	}
	for _, m := range members {
		if asked.Remove == "" || m.Name != asked.Remove && !slices.Contains(m.PeerURLs, asked.Remove) {
			continue
		}
		if err := s.removeWhenHealthy(r.Context(), m.ID); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		s.log.Info("a server was removed", "name", m.Name)
		writeAnswer(w, MemberInfo{Name: m.Name})
		return
	}
	http.Error(w, fmt.Sprintf("there is no server %q: `skiff server list` shows those that there are", asked.Remove), http.StatusNotFound)
}

// removeWhenHealthy removes a member, and waits some seconds until the others are
// settled.
func (s *server) removeWhenHealthy(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := s.etcd.RemoveMember(ctx, id)
		if !errors.Is(err, store.ErrUnsettled) || !sleep(ctx, 250*time.Millisecond) {
			return err
		}
	}
}

// ListMembers returns the servers of a cluster with an embedded etcd.
func ListMembers(ctx context.Context, config *rest.Config) (out []MemberInfo, err error) {
	return out, callMembers(ctx, config, http.MethodGet, nil, &out)
}

// RemoveMember takes a server out of the cluster. It is named by its name or peer
// URL; it ends by itself if it runs, and its data is of no use any more.
func RemoveMember(ctx context.Context, config *rest.Config, name string) error {
	return callMembers(ctx, config, http.MethodPost, map[string]string{"remove": name}, nil)
}

func callMembers(ctx context.Context, config *rest.Config, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, config.Host+membersPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return errors.New(string(bytes.TrimSpace(data)))
	case out != nil:
		return json.Unmarshal(data, out)
	}
	return nil
}

// decodeStored reads an object in the form in which it is stored.
func decodeStored(value []byte, into runtime.Object) error {
	_, _, err := scheme.Codecs.UniversalDeserializer().Decode(value, nil, into)
	return err
}
