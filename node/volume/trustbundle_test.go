package volume

import (
	"context"
	"encoding/pem"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func certificate(content string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(content)}))
}

func trustBundle(name, signer string, labels map[string]string, content string) *certificatesv1.ClusterTrustBundle {
	return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: content}}
}

// The API's words: a label selector that is "unset, interpreted as 'match nothing'. If set but empty, interpreted as 'match
// everything'"; "If true, don't block pod startup if the referenced ClusterTrustBundle(s) aren't available"; contents are "deduplicated
// and normalized".
func TestTrustBundle(t *testing.T) {
	a, b, c := certificate("a"), certificate("b"), certificate("c")
	m := &Manager{c: Config{TrustBundles: func(context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
		return []*certificatesv1.ClusterTrustBundle{
			trustBundle("plain", "", nil, "a remark\n"+c),
			trustBundle("s.io:x:two", "s.io/x", map[string]string{"alive": "no"}, b+a),
			trustBundle("s.io:x:one", "s.io/x", map[string]string{"alive": "yes"}, a),
		}, nil
	}}}
	name, signer, missing, yes := "plain", "s.io/x", "missing", true
	alive := &metav1.LabelSelector{MatchLabels: map[string]string{"alive": "yes"}}
	for title, x := range map[string]struct {
		source corev1.ClusterTrustBundleProjection
		want   string
		fails  bool
	}{
		"by name":            {corev1.ClusterTrustBundleProjection{Name: &name}, c, false},
		"no such name":       {corev1.ClusterTrustBundleProjection{Name: &missing}, "", true},
		"optional name":      {corev1.ClusterTrustBundleProjection{Name: &missing, Optional: &yes}, "", false},
		"all of a signer":    {corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: &metav1.LabelSelector{}}, a + b, false},
		"some of a signer":   {corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: alive}, a, false},
		"none of a signer":   {corev1.ClusterTrustBundleProjection{SignerName: &signer}, "", true},
		"none, but optional": {corev1.ClusterTrustBundleProjection{SignerName: &signer, Optional: &yes}, "", false},
	} {
		x.source.Path = "ca.pem"
		files := map[string]file{}
		err := m.trustBundle(context.Background(), files, &x.source, 0o640)
		if (err != nil) != x.fails {
			t.Errorf("%s: %v", title, err)
		}
		got, there := files["ca.pem"]
		if there == x.fails || string(got.data) != x.want || (there && got.mode != 0o640) {
			t.Errorf("%s: %v %q, want %q", title, there, got.data, x.want)
		}
	}
}
