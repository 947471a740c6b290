package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// How long requests are kept: those that are settled, and those that nobody has
// looked at.
const (
	settledFor = time.Hour
	pendingFor = 24 * time.Hour
	// podRequestFor is how long a pod's request is kept, whatever came of it: its node takes the answer at once.
	podRequestFor = 15 * time.Minute
)

// Cleaner is the row that deletes old requests.
func Cleaner() loop.Controller {
	return loop.Controller{
		Name:   Name,
		Reads:  []*api.Resource{api.For[*certificatesv1.CertificateSigningRequest]()},
		Writes: []string{"certificatesigningrequests"},
		Decide: func(v *client.View, key loop.Key, now time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
			csr, ok := client.Find[*certificatesv1.CertificateSigningRequest](v, "", key.Name)
			if !ok {
				return loop.Plan{}, nil
			}
			if end := endOf(csr); now.Before(end) {
				return loop.Plan{WakeAt: end}, nil
			}
			return loop.Plan{Writes: []loop.Write{loop.Delete(csr)}}, nil
		},
	}
}

// PodCleaner is the row that deletes old requests of pods: each renewal makes another.
func PodCleaner() loop.Controller {
	return loop.Controller{
		Name:   "podcertificaterequestcleaner",
		Reads:  []*api.Resource{api.For[*certificatesv1.PodCertificateRequest]()},
		Writes: []string{"podcertificaterequests"},
		Decide: func(v *client.View, key loop.Key, now time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
			request, ok := client.Find[*certificatesv1.PodCertificateRequest](v, key.Namespace, key.Name)
			if !ok {
				return loop.Plan{}, nil
			}
			if end := request.CreationTimestamp.Add(podRequestFor); now.Before(end) {
				return loop.Plan{WakeAt: end}, nil
			}
			return loop.Plan{Writes: []loop.Write{loop.Delete(request)}}, nil
		},
	}
}

// endOf is when the request is to be deleted.
func endOf(csr *certificatesv1.CertificateSigningRequest) time.Time {
	end := csr.CreationTimestamp.Add(pendingFor)
	for _, c := range csr.Status.Conditions {
		settled := c.Type != certificatesv1.CertificateApproved || len(csr.Status.Certificate) > 0
		if at := c.LastUpdateTime.Add(settledFor); settled && !c.LastUpdateTime.IsZero() && at.Before(end) {
			end = at
		}
	}
	if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}
