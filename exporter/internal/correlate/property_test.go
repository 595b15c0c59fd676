package correlate

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// story is the recordings' events that the properties are held against.
func story(t testing.TB) []hostEvent {
	t.Helper()
	dir := filepath.Join(recordings, "multihost")
	var all []hostEvent
	for host, h := range readTruth(t, dir).Hosts {
		all = append(all, read(readLog(t, dir, host, h.Files), time.UTC)...)
	}
	slices.SortStableFunc(all, func(a, b hostEvent) int { return a.ev.Time.Compare(b.ev.Time) })
	return all
}

func tellAll(e *Engine) string {
	e.Finish(e.Newest())
	events, findings := tell(e.Findings())
	return events + findings + fmt.Sprintf("%+v", e.Report(true))
}

// The findings do not depend on how the events were cut into batches.
func TestBatchesDoNotMatter(t *testing.T) {
	events := story(t)
	whole := NewEngine(Options{Events: true})
	for i := range events {
		whole.Add(events[i].host, &events[i].ev)
	}
	want := tellAll(whole)
	rapid.Check(t, func(t *rapid.T) {
		e := NewEngine(Options{Events: true})
		var fs []Finding
		for rest := events; len(rest) > 0; {
			n := rapid.IntRange(1, 400).Draw(t, "batch")
			for i := range rest[:min(n, len(rest))] {
				e.Add(rest[i].host, &rest[i].ev)
			}
			rest = rest[min(n, len(rest)):]
			fs = append(fs, e.Findings()...)
		}
		e.Finish(e.Newest())
		fs = append(fs, e.Findings()...)
		events, findings := tell(fs)
		if diff := cmp.Diff(want, events+findings+fmt.Sprintf("%+v", e.Report(true))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// What one host logs changes nothing of another's verdicts.
func TestHostsAreStrangers(t *testing.T) {
	events := story(t)
	only := func(host string) string {
		e := NewEngine(Options{Events: true})
		for i := range events {
			if events[i].host == host {
				e.Add(host, &events[i].ev)
			}
		}
		e.Finish(e.Newest())
		a, b := tell(e.Findings())
		return a + b
	}
	together := NewEngine(Options{Events: true})
	for i := range events {
		together.Add(events[i].host, &events[i].ev)
	}
	for _, host := range together.Hosts() {
		together.hosts[host].finish(together.hosts[host].clock)
	}
	fs := together.Findings()
	for _, host := range together.Hosts() {
		a, b := tell(slices.DeleteFunc(slices.Clone(fs), func(f Finding) bool { return f.Host != host }))
		if diff := cmp.Diff(only(host), a+b); diff != "" {
			t.Errorf("%s: %s", host, diff)
		}
	}
}

// Any verbs in any order leave counters that add up and spans that are not
// negative.
func checkSane(t testing.TB, e *Engine) {
	t.Helper()
	checkIdentity(t, e)
	for _, f := range e.Findings() {
		switch {
		case f.Ban != nil && (f.Ban.Banned < 0 || f.Ban.Gap < 0):
			t.Errorf("negative span: %s", describeFinding(f))
		case f.Ban != nil && !f.Ban.Started.IsZero() && !f.Ban.Ended.IsZero() && f.Ban.Banned+f.Ban.Gap > max(0, f.Ban.Ended.Sub(f.Ban.Started)):
			t.Errorf("longer in force than from start to end: %s", describeFinding(f))
		case f.Restore != nil && (f.Restore.Gap.V < 0 || f.Restore.GapMax.V < 0 || f.Restore.Remaining.V < 0):
			t.Errorf("negative span: %s", describeFinding(f))
		case f.Reoffence != nil && f.Reoffence.Delay < 0:
			t.Errorf("negative delay: %s", describeFinding(f))
		}
	}
	for _, h := range e.Report(false).Hosts {
		for _, j := range h.Jails {
			if j.BannedNow < 0 || j.Unprotected < 0 {
				t.Errorf("negative count in %s", j.Jail)
			}
		}
	}
	for _, h := range e.hosts {
		for _, j := range h.jails {
			n := 0
			for _, t := range j.tracks {
				if t.state == suspended {
					n++
				}
			}
			if n != j.suspended {
				t.Errorf("%d suspended, counted %d", n, j.suspended)
			}
		}
		for _, r := range h.restarts {
			if r.open < 0 {
				t.Errorf("restart with %d open bans", r.open)
			}
		}
	}
}

func FuzzEngine(f *testing.F) {
	f.Add([]byte{1, 0, 10, 5, 20, 1, 30, 2, 40, 3})
	f.Add([]byte("\x01\x00\x18\x00\x1b\x00\x12\x00\x01\x00\x0f\x00\x1c\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 4096)]
		e := NewEngine(Options{Events: true, Rows: true, Open: true})
		o := Options{Events: true}
		through, reborn := NewEngine(o), NewEngine(o)
		var said []Finding
		now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
		for i := 0; i+1 < len(data); i += 2 {
			kind, arg := fail2ban.Kind(data[i]%64), int(data[i+1])
			now = now.Add(time.Duration(arg-16) * 700 * time.Millisecond)
			ev := fail2ban.Event{
				Time: now, Kind: kind, Jail: []string{"a", "b"}[arg%2], ID: []string{"x", "y", "z"}[arg%3], PID: 1 + arg%2,
				FoundAt: now.Add(-time.Duration(arg%5) * time.Second).Truncate(time.Second), BanTime: time.Duration(arg-1) * time.Second,
				Count: arg % 4, Version: []string{"1.0.2", "0.9.7", "1.1.1"}[arg%3], Detail: []string{"f", "g"}[arg%2],
			}
			if kind == fail2ban.IncreaseBan {
				ev.Until = now.Add(time.Duration(arg) * time.Minute)
			}
			e.Add("h", &ev)
			through.Add("h", &ev)
			reborn.Add("h", &ev)
			if arg%7 == 0 {
				said = append(said, reborn.Findings()...)
				reborn = reloaded(t, reborn, o)
			}
		}
		for _, e := range []*Engine{e, through, reborn} {
			e.Finish(now.Add(time.Hour))
		}
		checkSane(t, e)
		a, b := tell(through.Findings())
		c, d := tell(append(said, reborn.Findings()...))
		if diff := cmp.Diff(strings.Split(a+b, "\n"), strings.Split(c+d, "\n")); diff != "" {
			t.Errorf("saved and loaded on the way it says otherwise: %s", diff)
		}
	})
}

// Lines of one id that come up to the order window too early or too late change
// no verdict. What one line moved over another tells by its time.
func TestInversionsDoNotMatter(t *testing.T) {
	eachRecording(t, func(name, host string, files []string, zone *time.Location, dir string) {
		if strings.HasPrefix(name, "lifecycle-0.8") {
			return // whose Found names no jail: the id's lines are not all told
		}
		events := read(readLog(t, dir, host, files), zone)
		want := saidOf(events)
		for k := range events {
			if to := laterOfID(events, k); to > 0 {
				moved := slices.Clone(events)
				e := moved[k]
				copy(moved[k:to], moved[k+1:to+1])
				moved[to] = e
				if diff := cmp.Diff(want, saidOf(moved)); diff != "" {
					t.Errorf("%s: %v %s %s %s moved behind %v at %s:\n%s", name, e.ev.Kind, e.ev.Jail, e.ev.ID, clock(e.ev.Time),
						events[to].ev.Kind, clock(events[to].ev.Time), diff)
				}
			}
		}
	})
}

// laterOfID is the place of the next line of the same id, less than the order
// window later by its time; 0 for none.
func laterOfID(events []hostEvent, k int) int {
	ev := &events[k].ev
	if !ev.Kind.HasID() {
		return 0
	}
	for i := k + 1; i < len(events); i++ {
		next := &events[i].ev
		if next.Time.Sub(ev.Time) >= 2*time.Second || !next.Kind.HasID() && next.Kind != fail2ban.Other {
			return 0
		}
		if next.Jail == ev.Jail && next.ID == ev.ID && next.Time.After(ev.Time) {
			return i
		}
	}
	return 0
}

// saidOf is what was said, in an order that does not depend on the log's.
func saidOf(events []hostEvent) []string {
	e := NewEngine(Options{Events: true})
	for i := range events {
		e.Add(events[i].host, &events[i].ev)
	}
	e.Finish(e.Newest())
	a, b := tell(e.Findings())
	lines := strings.Split(a+b, "\n")
	slices.Sort(lines)
	return lines
}
