package volume

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// projectsBundle: one of the pod's volumes has trust bundles in it.
func projectsBundle(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ClusterTrustBundle != nil
		})
	})
}

// trustBundle puts one file with all certificates of the chosen bundles into files. It is there, and empty, when an optional
// choice finds none.
func (m *Manager) trustBundle(ctx context.Context, files map[string]file, s *corev1.ClusterTrustBundleProjection, mode os.FileMode) error {
	all, err := m.c.TrustBundles(ctx)
	if err != nil {
		return err
	}
	chosen, err := chooseBundles(all, s)
	if err != nil && (s.Optional == nil || !*s.Optional) {
		return err
	}
	files[s.Path] = file{data: anchors(chosen), mode: mode, owner: -1}
	return nil
}

// chooseBundles returns the bundle of a name, or a signer's bundles that a selector matches: nil matches none, an empty one all. That
// there are none is an error.
func chooseBundles(all []*certificatesv1.ClusterTrustBundle, s *corev1.ClusterTrustBundleProjection) ([]*certificatesv1.ClusterTrustBundle, error) {
	if s.Name != nil {
		for _, b := range all {
			if b.Name == *s.Name {
				return []*certificatesv1.ClusterTrustBundle{b}, nil
			}
		}
		return nil, fmt.Errorf("clustertrustbundle %q not found", *s.Name)
	}
	if s.SignerName == nil {
		return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	selector, err := metav1.LabelSelectorAsSelector(s.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("labelSelector of signer %s: %w", *s.SignerName, err)
	}
	var chosen []*certificatesv1.ClusterTrustBundle
	for _, b := range all {
		if b.Spec.SignerName == *s.SignerName && selector.Matches(labels.Set(b.Labels)) {
			chosen = append(chosen, b)
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return chosen, nil
}

// anchors are the certificates of all bundles, each once, without what else stands between them. Sorted, so that files change only
// when certificates do; who reads them must not rely on an order.
func anchors(bundles []*certificatesv1.ClusterTrustBundle) []byte {
	var all []string
	for _, b := range bundles {
		rest := []byte(b.Spec.TrustBundle)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			all = append(all, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})))
		}
	}
	slices.Sort(all)
	data := []byte{}
	for _, one := range slices.Compact(all) {
		data = append(data, one...)
	}
	return data
}
