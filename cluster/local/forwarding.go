package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ForwardingDropped says whose rules of this machine drop packets that are forwarded
// and that they do not know, as Docker's, ufw's and firewalld's do; empty: nobody's.
// What one table drops no other table can accept, and tables of others are not ours
// to change: then nodes use a Relay. Only policies (and firewalld by its name) are
// looked at, not every rule.
func ForwardingDropped(ctx context.Context) (by string, err error) {
	out, err := output(ctx, "nft", "-j", "list", "chains")
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	var list struct {
		NFTables []struct {
			Chain *struct{ Family, Table, Name, Hook, Policy string }
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	for _, item := range list.NFTables {
		c := item.Chain
		if c == nil || c.Hook != "forward" || c.Family != "ip" && c.Family != "inet" {
			continue
		}
		if c.Policy == "drop" || c.Table == "firewalld" {
			return fmt.Sprintf("nftables table %s %s, chain %s", c.Family, c.Table, c.Name), nil
		}
	}
	return droppedByLegacy(ctx)
}

// droppedByLegacy asks the older iptables, whose rules nft does not see, if it is in use.
func droppedByLegacy(ctx context.Context) (by string, err error) {
	tables, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if errors.Is(err, os.ErrNotExist) || err == nil && !strings.Contains(string(tables), "filter") {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	out, err := output(ctx, "iptables-legacy", "-S", "FORWARD")
	if errors.Is(err, exec.ErrNotFound) {
		return "", nil
	}
	if err == nil && strings.Contains(string(out), "-P FORWARD DROP") {
		by = "iptables, chain FORWARD"
	}
	return by, err
}

// output runs a program on the calling thread, in its network namespace.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}
