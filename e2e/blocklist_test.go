package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// The block list of a fleet, taken by the firewalls themselves: nft checks it
// and loads it, ipset loads it, each twice over and in a network of its own.
// What they then hold is the plain list.
func TestBlocklist(t *testing.T) {
	const allowed = "203.0.113.14" // the second of the fleet's ranking
	tenant, _ := pushNow(t, "multihost")
	file := config{tenant: tenant}.write(t)
	appendTo(t, file, "offenders: {allow: ["+allowed+"/32]}\n")
	s := daemonOf(t, file)
	poll(t, s, "is not ready", func(ctx context.Context) error {
		_, err := lab.Get(ctx, s.URL+"/-/ready")
		return err
	})
	list := func(query string) string {
		body, err := lab.Get(t.Context(), s.URL+"/api/v1/blocklist"+query)
		if err != nil {
			t.Fatal(err)
		}
		return string(body) + "\n"
	}
	plain := strings.Fields(list(""))
	slices.Sort(plain)
	offenders := 0
	for _, id := range offenderIDs(t, s) {
		if _, err := netip.ParseAddr(id); err != nil {
			t.Fatalf("the fleet has an id that is no address: %s", id)
		}
		offenders++
	}
	if len(plain) != offenders-1 || slices.Contains(plain, allowed) {
		t.Fatalf("%d addresses on the list, %d in the ranking, one allowed", len(plain), offenders)
	}
	if worst := strings.Fields(list("?top=5&min_score=20")); len(worst) != 5 {
		t.Errorf("the five worst: %q", worst)
	}
	dir := t.TempDir()
	t.Run("nft", func(t *testing.T) {
		script := writeFile(t, dir, "list.nft", list("?format=nft"))
		firewall(t, "nft", "nft -c -f "+script)
		out := firewall(t, "nft", "nft -f "+script+" && nft -f "+script+" && nft list set inet fail2ban_blocklist ipv4")
		if got := addresses(out); !slices.Equal(got, plain) {
			t.Errorf("nft holds %q, listed are %q", got, plain)
		}
	})
	t.Run("ipset", func(t *testing.T) {
		script := writeFile(t, dir, "list.ipset", list("?format=ipset"))
		out := firewall(t, "ipset", "ipset restore <"+script+" && ipset restore <"+script+" && ipset save")
		if got := addresses(out); !slices.Equal(got, plain) {
			t.Errorf("ipset holds %q, listed are %q", got, plain)
		}
		if strings.Contains(out, "_new") {
			t.Errorf("a set is left over:\n%s", out)
		}
	})
}

func appendTo(t *testing.T, file, text string) {
	t.Helper()
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Dir(file), filepath.Base(file), string(before)+text)
}

// offenderIDs are those of the whole ranking.
func offenderIDs(t *testing.T, s *lab.Server) (ids []string) {
	t.Helper()
	body, err := lab.Get(t.Context(), s.URL+"/api/v1/offenders?limit=5000")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct{ ID string }
	if err := json.Unmarshal(body, &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	return ids
}

// firewall runs a command in a network namespace of its own, whose rules end
// with it. Without the tool, or where the kernel gives no namespace, the test
// is skipped, with CI set it fails.
func firewall(t *testing.T, tool, script string) string {
	t.Helper()
	run := func(script string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--map-root-user", "sh", "-ec", "PATH=$PATH:/usr/sbin:/sbin; "+script)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", script, err, errs.String())
		}
		return out.String(), nil
	}
	if _, err := run(tool + " --version"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("%v; `apt-get install nftables ipset` brings it, and CI=1 makes this an error", err)
	}
	out, err := run(script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// addresses are all that stand in a text, sorted.
func addresses(text string) (out []string) {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(" ,{}\n\t=", r) }) {
		if p, err := netip.ParsePrefix(word); err == nil { // nft merges neighbours, into this
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				out = append(out, a.String())
			}
			continue
		}
		first, last, isRange := strings.Cut(word, "-") // or into this
		a, err := netip.ParseAddr(first)
		if err != nil {
			continue
		}
		out = append(out, a.String())
		for isRange && a.String() != last && len(out) < 1000 {
			a = a.Next()
			out = append(out, a.String())
		}
	}
	slices.Sort(out)
	return out
}
