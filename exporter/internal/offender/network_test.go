package offender

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Networks are ranked by the same score, taken over all their ids.
func TestNetworks(t *testing.T) {
	b := NewBoard(Options{Network: func(a netip.Addr) []string {
		if a.Is4() && a.As4()[0] == 198 {
			return []string{"AS64496"}
		}
		return nil
	}})
	place := func(n int) Place { return Place{Host: fmt.Sprintf("web-%d", n%3), Jail: "sshd"} }
	for i := range 64 {
		ban(b, place(i), fmt.Sprintf("198.51.100.%d", i), day.Add(time.Duration(i)*time.Minute))
	}
	ban(b, place(0), "::ffff:198.51.100.200", day)
	ban(b, place(0), "198.51.96.0/22", day) // a subnet, wider than the networks
	for i, id := range []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"} {
		ban(b, place(i), id, day)
		b.Failure(place(i), id, day)
	}
	b.Failure(place(0), "2001:db8::3", day) // never banned
	ban(b, place(0), "root", day)
	b.Failure(place(0), "192.0.2.1", day)

	type row struct {
		Rank                             int
		Network                          string
		Offenders, Bans, Failures, Hosts int
		Share                            string
	}
	var got []row
	for _, n := range b.Networks(day.Add(time.Hour), 10) {
		got = append(got, row{n.Rank, n.Network, n.Offenders, n.Bans, n.Failures, n.Hosts, fmt.Sprintf("%.3g", n.Share)})
	}
	want := []row{
		{1, "AS64496", 66, 66, 0, 3, "0"},
		{2, "198.51.100.0/24", 65, 65, 0, 3, "0.254"},
		{3, "2001:db8::/48", 3, 3, 4, 3, fmt.Sprintf("%.3g", 3*math.Exp2(-80))},
		{4, "2001:db8::/64", 2, 2, 3, 2, fmt.Sprintf("%.3g", 2*math.Exp2(-64))},
		{5, "198.51.96.0/22", 1, 1, 0, 1, "1"},
		{6, "2001:db8:0:1::/64", 1, 1, 1, 1, fmt.Sprintf("%.3g", math.Exp2(-64))},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if short := b.Networks(day, 2); len(short) != 2 || short[1].Network != "198.51.100.0/24" {
		t.Errorf("%+v", short)
	}
	for id, want := range map[string]string{"root": "", "192.0.2.1": "192.0.2.0/24", "2001:db8::1": "2001:db8::/64", "": "", "feed": "", "192.0.0.0/16": "192.0.0.0/16"} {
		if got := b.o.networkOf(id); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}

// The score of a network with one id is the id's own.
func TestNetworkOfOne(t *testing.T) {
	b := NewBoard(Options{})
	for i, host := range []string{"a", "b", "a"} {
		ban(b, Place{Host: host, Jail: "j"}, "192.0.2.1", day.Add(time.Duration(i)*24*time.Hour))
	}
	now := day.Add(5 * 24 * time.Hour)
	n, r := b.Networks(now, 1)[0], b.Rank(now, 1).Rows[0]
	if n.Score != r.Score || n.Parts != r.Parts || n.Hosts != r.Hosts || n.Bans != r.Bans || r.Network != n.Network || n.LastBan != r.LastBan {
		t.Errorf("%+v\n%+v", n, r)
	}
}
