package offender

import (
	"bytes"
	"maps"
	"net/netip"
	"testing"
	"time"
)

// located are options that know where some addresses come from.
var located = Options{Origin: func(a netip.Addr) Origin {
	switch {
	case a.Is6():
		return Origin{Country: "SE", ASN: "AS64502"}
	case a.As4()[0] == 192:
		return Origin{Country: "NL"}
	}
	return Origin{}
}}

// Bans are counted by country once each; the counts outlive the ids, and go
// with copies, snapshots and merges.
func TestCountries(t *testing.T) {
	o := located
	start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	made := func(host string) *Board {
		b := NewBoard(o)
		for i, id := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.0/24", "2001:db8::1", "203.0.113.1", "somebody"} {
			fact := BanFact{Place: Place{Host: host, Jail: "sshd"}, ID: id, At: start.Add(time.Duration(i) * time.Minute)}
			b.Ban(fact)
			b.Ban(fact) // told again
			fact.Place.Jail = "recidive"
			b.Ban(fact)
		}
		return b
	}
	check := func(what string, b *Board, times uint64) {
		t.Helper()
		want := map[string]uint64{"NL": 3 * times, "SE": times, "": 2 * times}
		if got := b.Countries(); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	b := made("a")
	check("board", b, 1)
	check("copy", b.Freeze(), 1)
	if row, _ := b.Of("2001:db8::1", start); row.Country != "SE" || row.ASN != "AS64502" {
		t.Errorf("%+v", row)
	}
	var snapshot bytes.Buffer
	if err := b.Snapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(&snapshot, o)
	if err != nil {
		t.Fatal(err)
	}
	check("loaded", loaded, 1)
	b.Merge(made("b"))
	check("merged", b, 2)
	b.Forget(start.Add(time.Hour))
	check("forgotten", b, 2)
	if NewBoard(Options{}).Countries() != nil {
		t.Error("countries are told where nobody knows any")
	}
}
