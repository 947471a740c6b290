package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"skiff/cluster/pki"
)

// errMistrust is why a machine does not join: what answers is not the cluster that
// its token is of.
var errMistrust = errors.New("the server is not of the cluster that the token pins: take the token from that cluster, or see who answers at the address")

// fetchAuthority asks a server for the cluster's authority and believes it only if
// its public key is the pinned one and the server has a certificate of it, in the
// name by which it was asked. Nothing is sent before.
func fetchAuthority(ctx context.Context, server, pin string) (*x509.Certificate, error) {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", server, err)
	}
	var found *x509.Certificate
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 10 * time.Second},
		Config: &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: host, NextProtos: []string{"h2", "http/1.1"},
			InsecureSkipVerify: true, // verified below, against the pin
			VerifyConnection: func(state tls.ConnectionState) (err error) {
				found, err = pinned(state.PeerCertificates, pin, host)
				return err
			},
		},
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return nil, fmt.Errorf("fetch the authority of %s: %w", server, err)
	}
	conn.Close()
	return found, nil
}

// pinned finds the pinned authority in what a server shows, and checks that the
// server's certificate is of it.
func pinned(chain []*x509.Certificate, pin, host string) (*x509.Certificate, error) {
	for _, c := range chain {
		if !c.IsCA || pki.HashOf(c) != pin {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(c)
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			return nil, fmt.Errorf("%w (start the server with --tls-san %s if it is known by that name)", err, host)
		}
		return c, nil
	}
	return nil, errMistrust
}

// hostPort reads a server's address: https://host:port, host:port or host.
func hostPort(server string) (string, error) {
	text := server
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("server %q: give https://HOST:PORT", server)
	}
	port := u.Port()
	if port == "" {
		port = "6443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}
