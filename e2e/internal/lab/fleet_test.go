package lab

import (
	"testing"
	"time"
)

// A fleet is the same each time, each host's lines are in order, and it has
// about as many as it shall.
func TestFleet(t *testing.T) {
	f := Fleet{Hosts: 5, Jails: 6, Days: 7, Lines: 20_000, From: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Seed: 1}
	truth, again := FleetTruth{}, FleetTruth{}
	last, n := map[string]time.Time{}, 0
	var lines []Line
	for l := range f.All(truth) {
		if l.Time.Before(last[l.Host]) {
			t.Fatalf("%v after %v: %s", l.Time, last[l.Host], l.Text)
		}
		last[l.Host] = l.Time
		lines = append(lines, l)
		n++
	}
	for l := range f.All(again) {
		if w := lines[0]; l.Text != w.Text || l.Host != w.Host || !l.Time.Equal(w.Time) {
			t.Fatalf("%v, first %v", l, w)
		}
		lines = lines[1:]
	}
	sum := Tally{}
	for key, y := range truth {
		if *y != *again[key] {
			t.Errorf("%s: %v, then %v", key, y, again[key])
		}
		sum.Bans, sum.Restores, sum.Expired = sum.Bans+y.Bans, sum.Restores+y.Restores, sum.Expired+y.Expired
	}
	if len(last) != 5 || n < 19_000 || n > 24_000 || sum.Bans < 3000 || sum.Restores == 0 || sum.Expired < 3000 {
		t.Errorf("%d hosts, %d lines, %+v", len(last), n, sum)
	}
}
