package correlate

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// flood has one host ban each of many ids once, while another one bans a few,
// again and again. The first ids are banned for ever.
func flood(e *Engine, ids int) {
	const banned = 100 // at a time
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	add := func(host, jail, id string, kind fail2ban.Kind) {
		at = at.Add(100 * time.Millisecond)
		e.Add(host, &fail2ban.Event{Kind: kind, Jail: jail, ID: id, Time: at, FoundAt: at.Truncate(time.Second)})
	}
	for _, host := range []string{"noisy", "quiet"} {
		e.Add(host, &fail2ban.Event{Kind: fail2ban.ServerStart, Version: "1.1.0", Time: at, PID: 1})
		for jail, d := range map[string]time.Duration{"sshd": banned * 3 * time.Second, "recidive": -time.Second} {
			e.Add(host, &fail2ban.Event{Kind: fail2ban.JailCreated, Jail: jail, Time: at})
			e.Add(host, &fail2ban.Event{Kind: fail2ban.SettingBanTime, Jail: jail, BanTime: d, Time: at})
			e.Add(host, &fail2ban.Event{Kind: fail2ban.JailStarted, Jail: jail, Time: at})
		}
	}
	id := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255) }
	for i := range 50 {
		add("noisy", "recidive", id(i), fail2ban.Found)
		add("noisy", "recidive", id(i), fail2ban.Ban)
	}
	began := at
	for i := range ids + banned {
		at = began.Add(time.Duration(i) * 3 * time.Second)
		if i >= banned {
			add("noisy", "sshd", id(i-banned), fail2ban.Unban)
		}
		if i < ids {
			add("noisy", "sshd", id(i), fail2ban.Found)
			add("noisy", "sshd", id(i), fail2ban.Ban)
		}
		if i%200 == 0 {
			add("quiet", "sshd", fmt.Sprintf("192.0.2.%d", i/200%20), fail2ban.Found)
			add("quiet", "sshd", fmt.Sprintf("192.0.2.%d", i/200%20), fail2ban.Ban)
		}
	}
}

func of(host string, fs []Finding) string {
	events, findings := tell(slices.DeleteFunc(slices.Clone(fs), func(f Finding) bool { return f.Host != host }))
	return events + findings
}

// Beyond the bound the stalest of the host that has too many are forgotten,
// those banned last; the other host's verdicts and all counters stay.
func TestForgetting(t *testing.T) {
	const ids, bound = 8000, 1600
	all, forgot := NewEngine(Options{}), 0
	few := NewEngine(Options{MaxKeys: bound, Forgot: func(n int) { forgot += n }})
	flood(all, ids)
	flood(few, ids)
	if few.Keys() > bound || few.Keys() < bound*9/10 || few.Keys()+forgot != all.Keys() {
		t.Errorf("%d keys kept of %d, %d forgotten", few.Keys(), all.Keys(), forgot)
	}
	want, got := all.Findings(), few.Findings()
	if diff := cmp.Diff(of("quiet", want), of("quiet", got)); diff != "" {
		t.Errorf("the quiet host: %s", diff)
	}
	if diff := cmp.Diff(all.Report(false), few.Report(false)); diff != "" {
		t.Errorf("counters and gauges: %s", diff)
	}
	if n := len(few.hosts["noisy"].jails["recidive"].tracks); n != 50 {
		t.Errorf("%d of 50 ids that are banned are kept", n)
	}
	kept := few.hosts["noisy"].jails["sshd"].tracks
	if kept["10.0.31.63"] == nil || kept["10.0.1.1"] != nil {
		t.Error("the newest was forgotten, or an old one kept")
	}
}

// Up to the bound nothing changes.
func TestNothingIsForgottenBelowTheBound(t *testing.T) {
	events := story(t)
	all := NewEngine(Options{Events: true})
	for i := range events {
		all.Add(events[i].host, &events[i].ev)
	}
	keys := all.Keys()
	want := tellAll(all)
	few := NewEngine(Options{Events: true, MaxKeys: keys, Forgot: func(int) { t.Error("forgot") }})
	for i := range events {
		few.Add(events[i].host, &events[i].ev)
	}
	if diff := cmp.Diff(want, tellAll(few)); diff != "" {
		t.Error(diff)
	}
}

// However few are kept, what is counted adds up, and a snapshot is whole.
func TestForgettingIsSane(t *testing.T) {
	events := story(t)
	rapid.Check(t, func(rt *rapid.T) {
		o := Options{MaxKeys: rapid.IntRange(1, 60).Draw(rt, "keys")}
		e, through := NewEngine(o), NewEngine(o)
		stop := rapid.IntRange(0, len(events)).Draw(rt, "saved at")
		for i := range events {
			if i == stop {
				e.Findings()
				e = reloaded(rt, e, o)
			}
			e.Add(events[i].host, &events[i].ev)
			through.Add(events[i].host, &events[i].ev)
		}
		for _, e := range []*Engine{e, through} {
			n := 0
			for _, host := range e.Hosts() {
				n += e.HostKeys(host)
			}
			if n != e.Keys() {
				t.Fatalf("%d keys, said to be %d", n, e.Keys())
			}
			e.Findings()
			var b bytes.Buffer
			if err := e.Snapshot(&b); err != nil {
				t.Fatal(err)
			}
			e.Finish(e.Newest())
			checkSane(t, e)
		}
	})
}

func TestFairShare(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		room  int
		want  int
	}{
		{[]int{10, 10}, 100, 80},
		{[]int{100, 1, 1}, 52, 50},
		{[]int{100, 100, 4}, 54, 25},
		{[]int{5, 5, 5}, 3, 1},
		{nil, 3, 3},
	} {
		if got := fairShare(c.sizes, c.room); got != c.want {
			t.Errorf("%v in %d: %d, not %d", c.sizes, c.room, got, c.want)
		}
	}
}

// BenchmarkForget is what the bound costs an engine that is always full.
func BenchmarkForget(b *testing.B) {
	e := NewEngine(Options{MaxKeys: million})
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var longest time.Duration
	add := func(i int) {
		at = at.Add(10 * time.Millisecond)
		id := fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255)
		began := time.Now()
		e.Add(hostName(i%10), &fail2ban.Event{Kind: fail2ban.Found, Jail: "sshd", ID: id, Time: at, FoundAt: at.Truncate(time.Second)})
		longest = max(longest, time.Since(began))
	}
	for i := range million {
		add(i)
	}
	i := million
	for b.Loop() {
		add(i)
		i++
	}
	b.ReportMetric(longest.Seconds(), "s-longest")
}

// Where bans run out all the time, with never a pause, unbans are settled too.
func TestUnbansWithoutAPause(t *testing.T) {
	e := NewEngine(Options{})
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for i := range 5000 {
		at = at.Add(time.Second)
		id := func(i int) string { return fmt.Sprintf("10.0.%d.%d", i>>8, i&255) }
		for _, ev := range []fail2ban.Event{
			{Kind: fail2ban.Found, Jail: "sshd", ID: id(i), Time: at, FoundAt: at},
			{Kind: fail2ban.Ban, Jail: "sshd", ID: id(i), Time: at},
			{Kind: fail2ban.Unban, Jail: "sshd", ID: id(max(0, i-300)), Time: at},
		}[:min(3, 2+i/300)] {
			e.Add("web-1", &ev)
		}
	}
	counts := e.Report(false).Hosts[0].Jails[0].Counts
	if settled, waiting := sum(counts.Unbans[:]), counts.Verbs[3]; settled+601 < waiting {
		t.Errorf("%d of %d unbans are settled", settled, waiting)
	}
	if n := len(e.hosts["web-1"].jails["sshd"].unbans); n > 602 {
		t.Errorf("%d wait", n)
	}
}
