package pki

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAuthorityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first, err := LoadAuthority(dir, "ca", "kubernetes", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadAuthority(dir, "ca", "kubernetes", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !first.Certificate.Equal(second.Certificate) || first.Hash() != second.Hash() {
		t.Error("a second start made another authority")
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v %v, want mode 600", info.Mode(), err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(dir, "ca", "kubernetes", time.Now()); err == nil {
		t.Error("an authority whose key is lost was replaced in silence")
	}
}

// Processes that start at once agree on one authority, and one whose making was
// cut off between key and certificate is finished.
func TestAuthorityIsMadeOnce(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "pki")
		if _, err := LoadKey(filepath.Join(dir, "cut.key")); err != nil {
			t.Fatal(err)
		}
		var made [4]*Authority
		var all sync.WaitGroup
		for i := range made {
			all.Go(func() {
				name := []string{"ca", "cut"}[i%2]
				var err error
				if made[i], err = LoadAuthority(dir, name, "kubernetes", time.Now()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
		if made[0].Hash() != made[2].Hash() || made[1].Hash() != made[3].Hash() {
			t.Fatal("two processes have two authorities")
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestIssuedCertificatesVerify(t *testing.T) {
	ca, err := NewAuthority("kubernetes", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(Leaf{CommonName: "system:node:n1", Organizations: []string{"system:nodes"}, DNSNames: []string{"n1"}, Server: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: "n1"}); err != nil {
		t.Error(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a serving certificate passed as a client's")
	}
	other, _ := NewAuthority("kubernetes", time.Now())
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: other.Pool()}); err == nil {
		t.Error("another authority's certificate passed")
	}
}

// "No certificate expires while the program runs; renewal needs no restart."
func TestRenewedNeverExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := NewAuthority("kubernetes", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r := ca.Renewed(Leaf{CommonName: "x", Client: true, Life: 24 * time.Hour})
		issued := map[string]bool{}
		for range 24 * 9 { // nine days, hour by hour
			cert, err := r.Get()
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(cert.Leaf.NotAfter); left < 8*time.Hour-time.Minute {
				t.Fatalf("only %s left", left)
			}
			issued[cert.Leaf.SerialNumber.String()] = true
			time.Sleep(time.Hour)
		}
		if len(issued) < 12 || len(issued) > 15 {
			t.Errorf("%d certificates in nine days, want one each 16 hours", len(issued))
		}
	})
}
