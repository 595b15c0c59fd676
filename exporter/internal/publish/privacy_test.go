package publish

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

var secretKey = []byte("0123456789abcdef0123456789abcdef")

func TestRedactor(t *testing.T) {
	cut, hash := NewTruncator(nil), NewHasher(secretKey)
	for id, want := range map[string]string{
		"": "", "192.0.2.77": "192.0.2.0/24", "::ffff:192.0.2.77": "192.0.2.0/24", "192.0.2.128/25": "192.0.2.0/24", "192.0.0.0/16": "192.0.0.0/16",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "2001:db8::/32": "2001:db8::/32", "root": hidden, "192.0.2.7 root": hidden,
	} {
		if got := cut.ID(id); got != want {
			t.Errorf("%q becomes %q, want %q", id, got, want)
		}
		if got := (*Redactor)(nil).ID(id); got != id {
			t.Errorf("plain %q becomes %q", id, got)
		}
	}
	if got := NewTruncator(secretKey).ID("root"); !strings.HasPrefix(got, "h-") {
		t.Errorf("an id that is no address becomes %q", got)
	}
	ids := []string{"192.0.2.77", "192.0.2.78", "192.0.2.0/24", "root", "2001:db8::1"}
	seen := map[string]bool{}
	for _, id := range ids {
		h := hash.ID(id)
		if len(h) != len("h-")+24 || seen[h] || h != hash.ID(id) || h == NewHasher([]byte("another key that is secret")).ID(id) {
			t.Errorf("%q becomes %q", id, h)
		}
		seen[h] = true
	}
	if hash.ID("::ffff:192.0.2.77") != hash.ID("192.0.2.77") || hash.ID("2001:DB8:0::1") != hash.ID("2001:db8::1") {
		t.Error("two spellings of an address have two hashes")
	}
}

func TestRedactedText(t *testing.T) {
	r := NewTruncator(nil)
	for in, want := range map[string]string{
		"2026-03-01 10:00:12,123 fail2ban.actions [7]: NOTICE [sshd] Ban 192.0.2.77": "2026-03-01 10:00:12,123 fail2ban.actions [7]: NOTICE [sshd] Ban 192.0.2.0/24",
		"from 192.0.2.77:22, 2001:db8::17.":                                          "from 192.0.2.0/24:22, 2001:db8::/64.",
		"rhost=2001:db8:1:2:3:4:5:6: no":                                             "rhost=2001:db8:1:2::/64: no",
		"net 2001:db8:1:2:3::/80 and ::1":                                            "net 2001:db8:1:2::/64 and ::/64",
		"mac 00:11:22:33:44:55 version 1.2.3":                                        "mac 00:11:22:33:44:55 version 1.2.3",
		"999.1.1.1":                                                                  "999.1.1.1",
	} {
		if got := r.Text(in); got != want {
			t.Errorf("%q\nbecomes %q\nwant    %q", in, got, want)
		}
	}
}

// In no form of any kind of row is an address left, nor in what proves it.
func TestRedactedRows(t *testing.T) {
	for mode, r := range map[string]*Redactor{"truncate": NewTruncator(nil), "hash": NewHasher(secretKey)} {
		var all bytes.Buffer
		for _, f := range findings() {
			f.Proof = []correlate.Line{{Time: f.Time, Text: "Ban " + f.ID + " of root"}}
			kind, row := FindingRow("main", &f)
			for _, write := range writers {
				if err := write(&all, Table{Kind: kind, Explain: true, Redact: r, Rows: slices.Values([]Row{row})}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, o := range offenders() {
			if err := WriteCSV(&all, Table{Kind: KindOffenders, Redact: r, Rows: slices.Values([]Row{OffenderRow("", &o)})}); err != nil {
				t.Fatal(err)
			}
		}
		c := offender.Campaign{IDs: []string{"192.0.2.1", "192.0.2.2"}}
		if err := WriteJSON(&all, Table{Kind: KindCampaigns, Explain: true, Redact: r, Rows: slices.Values([]Row{CampaignRow("", &c)})}); err != nil {
			t.Fatal(err)
		}
		if mode == "hash" && strings.Contains(all.String(), "192.0.2.") || wholeAddress(all.String()) != "" {
			t.Errorf("%s: %q is left in\n%s", mode, wholeAddress(all.String()), all.String())
		}
	}
}

var writers = []func(*bytes.Buffer, Table) error{
	func(b *bytes.Buffer, t Table) error { return WriteCSV(b, t) },
	func(b *bytes.Buffer, t Table) error { return WriteJSON(b, t) },
	func(b *bytes.Buffer, t Table) error { return WriteJSONArray(b, t) },
	func(b *bytes.Buffer, t Table) error { return WriteTable(b, t) },
}

// wholeAddress finds an address, not a network, in a text.
func wholeAddress(s string) string {
	for _, m := range addresses.FindAllString(s, -1) {
		if p, ok := prefixOf(strings.TrimRight(m, ":.")); ok && p.IsSingleIP() {
			return m
		}
	}
	return ""
}

// Findings name nobody either, and two addresses of one network in one instant
// stay two lines, which Loki keeps.
func TestRedactedFindings(t *testing.T) {
	at := at("10:00:00.000")
	var fs []correlate.Finding
	for _, id := range []string{"192.0.2.1", "192.0.2.2", "root"} {
		r := restoreOf(id)
		r.Time = at
		fs = append(fs, correlate.Finding{Kind: correlate.FindingRestore, Time: at, Host: r.Host, Jail: r.Jail, ID: id, Restore: r})
	}
	rank := []offender.Finding{{At: at, Row: offender.Row{ID: "192.0.2.1", Network: "192.0.2.0/24"}}}
	for mode, r := range map[string]*Redactor{"truncate": NewTruncator(secretKey), "hash": NewHasher(secretKey)} {
		var rec recorder
		s := NewLokiSink(&rec, LokiOptions{Redact: r})
		s.Publish(context.Background(), "main", at, fs, rank)
		if err := s.round(context.Background()); err != nil {
			t.Fatal(err)
		}
		text := rec.String()
		if wholeAddress(text) != "" || strings.Contains(text, "root") || mode == "hash" && strings.Contains(text, "192.0.2.") {
			t.Errorf("%s:\n%s", mode, text)
		}
		lines := map[string]bool{}
		for _, e := range rec.pushes[0][0].Entries {
			lines[e.Line] = true
		}
		if len(lines) != len(fs) {
			t.Errorf("%s: %d lines of %d findings:\n%s", mode, len(lines), len(fs), text)
		}
		if id := FindingID("main", &fs[0]); strings.Contains(text, id) {
			t.Errorf("%s: %s can be computed for each address there is", mode, id)
		}
	}
}

// Offenders that are one once they are cut have one series.
func TestRedactedOffenders(t *testing.T) {
	early, late := time.Unix(100, 0), time.Unix(200, 0)
	rows := []offender.Row{{ID: "192.0.2.1", Score: 9, Bans: 2, Hosts: 3, LastBan: early}, {ID: "198.51.100.1", Score: 8, Bans: 1}, {ID: "192.0.2.2", Score: 7, Bans: 5, Hosts: 1, LastBan: late}}
	out := NewTruncator(nil).Offenders(rows)
	if len(out) != 2 || out[0].ID != "192.0.2.0/24" || out[0].Score != 9 || out[0].Bans != 7 || out[0].Hosts != 3 || !out[0].LastBan.Equal(late) || rows[0].ID != "192.0.2.1" {
		t.Errorf("%+v", out)
	}
	nets := NewTruncator(nil).Networks([]offender.Network{{Network: "192.0.2.0/25", Score: 2}, {Network: "192.0.2.128/25", Score: 1}, {Network: "10.0.0.0/8"}})
	if len(nets) != 2 || nets[0].Score != 2 {
		t.Errorf("%+v", nets)
	}
}
