package offender

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const week = 7 * 24 * time.Hour

// The weeks of remission under 6-MP of Freireich et al. (1963), negative where
// censored: the worked example of most textbooks, with its published estimate.
var freireich = []int{6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35}

func TestKaplanMeierOfFreireich(t *testing.T) {
	var s Spans
	for _, w := range freireich {
		s.Add(time.Duration(max(w, -w))*week, w > 0)
	}
	e := s.Estimate()
	if e.Spans != 21 || e.Events != 9 || e.Longest != 35*week {
		t.Errorf("%+v", e)
	}
	type step struct {
		Week, AtRisk, Events int
		Survival, StdErr     float64
	}
	var got []step
	for _, x := range e.Steps {
		got = append(got, step{int(x.At / week), x.AtRisk, x.Events, math.Round(1000*x.Survival) / 1000, math.Round(1000*x.StdErr) / 1000})
	}
	want := []step{
		{6, 21, 3, 0.857, 0.076},
		{7, 17, 1, 0.807, 0.087},
		{10, 15, 1, 0.753, 0.096},
		{13, 12, 1, 0.690, 0.107},
		{16, 11, 1, 0.627, 0.114},
		{22, 7, 1, 0.538, 0.128},
		{23, 6, 1, 0.448, 0.135},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if m, ok := e.Median(); !ok || m != 23*week {
		t.Error("median", m, ok)
	}
	for _, c := range []struct {
		week  int
		want  float64
		known bool
	}{{0, 1, true}, {5, 1, true}, {6, 0.857, true}, {22, 0.538, true}, {35, 0.448, true}, {36, 0.448, false}} {
		if got, ok := e.Survival(time.Duration(c.week) * week); math.Abs(got-c.want) > 5e-4 || ok != c.known {
			t.Errorf("week %d: %v %v", c.week, got, ok)
		}
	}
}

func TestNothingToEstimate(t *testing.T) {
	var s Spans
	e := s.Estimate()
	if _, ok := e.Median(); ok {
		t.Error("a median of nothing")
	}
	if _, ok := e.Survival(0); ok {
		t.Error("a survival of nothing")
	}
	s.Add(time.Hour, true)
	e = s.Estimate()
	if v, ok := e.Survival(time.Hour * 100); v != 0 || !ok {
		t.Error("all came back", v, ok)
	}
}

// naive is the estimate from the definition: for each moment with an event, the
// share of those still at risk who had none, multiplied up.
func naive(ms []int64, event []bool, at int64) float64 {
	s := 1.0
	done := map[int64]bool{}
	for i, m := range ms {
		if !event[i] || m > at || done[m] {
			continue
		}
		done[m] = true
		risk, events := 0, 0
		for k := range ms {
			if ms[k] >= m {
				risk++
			}
			if ms[k] == m && event[k] {
				events++
			}
		}
		s *= float64(risk-events) / float64(risk)
	}
	return s
}

// The estimate is the naive one, however the spans were split and merged; when
// there are too many to keep, its times are at most 1 % too short.
func TestKaplanMeierIsTheNaiveProduct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(0, 20), rapid.Int64Range(0, 1<<40)), 1, 60).Draw(t, "ms")
		event := rapid.SliceOfN(rapid.Bool(), len(ms), len(ms)).Draw(t, "event")
		cut := rapid.IntRange(0, len(ms)).Draw(t, "cut")
		var a, b, rough, roughTail Spans
		rough.roughen()
		for i, m := range ms {
			if i < cut {
				a.add(m, event[i])
				rough.add(m, event[i])
			} else {
				b.add(m, event[i])
				roughTail.add(m, event[i])
			}
		}
		a.Merge(&b)
		roughTail.Merge(&rough)
		e, f := a.Estimate(), roughTail.Estimate()
		if f.Spans != len(ms) || f.Events != e.Events {
			t.Fatal(f.Spans, f.Events)
		}
		for _, m := range ms {
			got, _ := e.Survival(time.Duration(m) * time.Millisecond)
			if want := naive(ms, event, m); math.Abs(got-want) > 1e-9 {
				t.Fatalf("at %d: %v, want %v", m, got, want)
			}
		}
		exact := a.counted()
		for i, c := range roughTail.counted() {
			if i < len(exact) && c.ms > exact[len(exact)-1].ms {
				t.Fatal("too long")
			}
		}
		if x, y := e.Longest, f.Longest; y > x || float64(y) < float64(x)/binWidth-1e6 {
			t.Fatal(x, y)
		}
		if m, ok := e.Median(); ok && !tied(ms) {
			if r, ok := f.Median(); !ok || r > m || float64(r) < float64(m)/binWidth-1e6 {
				t.Fatalf("median %v, in bins %v", m, r)
			}
		}
	})
}

// tied tells whether spans share a bin, whose order is then lost.
func tied(ms []int64) bool {
	var s Spans
	s.roughen()
	for _, m := range ms {
		s.add(m, true)
	}
	for _, b := range s.bins {
		if b.events > 1 {
			return true
		}
	}
	return false
}

// Beyond what is kept exactly, spans are binned, in whatever order they came.
func TestManySpans(t *testing.T) {
	var s, up, down Spans
	for i := range 10_000 {
		s.Add(time.Duration(i+1)*time.Minute, i%3 == 0)
		up.Add(time.Duration(i+1)*time.Minute, i%3 == 0)
		down.Add(time.Duration(10_000-i)*time.Minute, (9_999-i)%3 == 0)
	}
	if s.bins == nil || len(s.bins) > 3000 {
		t.Error(len(s.bins))
	}
	if diff := cmp.Diff(up.Estimate(), down.Estimate()); diff != "" {
		t.Error(diff)
	}
	up.Merge(&down)
	if n, events := up.Len(); n != 20_000 || events != 2*3334 {
		t.Error(n, events)
	}
	a, b := s.Estimate(), up.Estimate()
	m, _ := a.Median()
	if r, _ := b.Median(); r != m {
		t.Error(m, r)
	}
	if got := s.Events(5000 * time.Minute); got < 1667 || got > 1667+17 {
		t.Error(got)
	}
}

// What happens between bans becomes spans: answered ends are events, unanswered
// ones are censored where nothing more is known.
func TestReturns(t *testing.T) {
	b := NewBoard(Options{})
	sshd := Place{Host: "h", Jail: "sshd"}
	at := func(minute int) time.Time { return day.Add(time.Duration(minute) * time.Minute) }
	end := func(id string, minute int, truly bool) {
		b.End(EndFact{Place: sshd, ID: id, At: at(minute), True: truly})
	}
	again := func(id string, minute, delay int) {
		b.Ban(BanFact{Place: sshd, ID: id, At: at(minute), Delay: time.Duration(delay) * time.Minute, HasDelay: delay >= 0})
	}
	// back: three failures, a ban of 10 minutes, a failure within it, one 5
	// minutes after it, another ban at 20 minutes, 10 after its end.
	for i := range 3 {
		b.Failure(sshd, "back", at(-3+i))
	}
	again("back", 0, -1)
	b.Failure(sshd, "back", at(5))
	end("back", 10, true)
	end("back", 10, true) // told again
	b.Failure(sshd, "back", at(15))
	b.Failure(sshd, "back", at(19))
	again("back", 20, 10)
	again("back", 20, 10) // told again
	// gone: never came back. lost: its ban was lost, so it cannot. by hand: an
	// administrator took it away. gap: came back in the gap.
	again("gone", 0, -1)
	end("gone", 30, true)
	again("lost", 0, -1)
	end("lost", 30, false)
	again("by hand", 0, -1)
	end("by hand", 30, true)
	b.Ban(BanFact{Place: sshd, ID: "by hand", At: at(50), Manual: true})
	again("gap", 0, -1)
	end("gap", 5, false)
	again("gap", 6, 0)
	// known: what it did after its end was told with the end.
	again("known", 0, -1)
	b.End(EndFact{Place: sshd, ID: "known", At: at(10), True: true, NextFailure: 7 * time.Minute, Failed: true})

	r := b.Returns(func(string, string) time.Time { return at(100) })[0]
	minutes := func(s *Spans) (out []int) {
		for _, c := range s.counted() {
			m := int(c.ms / 60_000)
			for range c.events {
				out = append(out, m)
			}
			for range c.censored {
				out = append(out, -m)
			}
		}
		return out
	}
	if diff := cmp.Diff([]int{0, 10, -20, -70, -90}, minutes(&r.ToBan)); diff != "" {
		t.Error("to ban", diff)
	}
	if diff := cmp.Diff([]int{5, 7, -20, -70}, minutes(&r.ToFailure)); diff != "" {
		t.Error("to failure", diff)
	}
	if r.Ends != 4 || r.Before != 5 || r.During != 1 || r.After != 2 || r.Banned != (10+30+30+30+5+10)*time.Minute {
		t.Errorf("%+v", r)
	}
	before, during, after, ok := r.PerBannedHour()
	if !ok || !near(before, 5*60./115, 1e-9) || !near(during, 60./115, 1e-9) || !near(after, 120./115, 1e-9) {
		t.Error(before, during, after, ok)
	}
	if _, _, _, ok := new(Returns).PerBannedHour(); ok {
		t.Error("failures per no hour")
	}
}

// The longest wait counts, and no more: who came back after it had not by then.
func TestLateReturns(t *testing.T) {
	b := NewBoard(Options{})
	p := Place{Host: "h", Jail: "j"}
	ban(b, p, "x", day)
	b.End(EndFact{Place: p, ID: "x", At: day.Add(time.Hour), True: true})
	b.Ban(BanFact{Place: p, ID: "x", At: day.Add(200 * 24 * time.Hour), Delay: 200*24*time.Hour - time.Hour, HasDelay: true})
	r := b.Returns(func(string, string) time.Time { return day.Add(300 * 24 * time.Hour) })
	if n, events := r[0].ToBan.Len(); n != 1 || events != 0 || r[0].ToBan.counted()[0].ms != longestSpan {
		t.Error(n, events)
	}
	rs := append(r, Returns{Place: Place{Host: "g", Jail: "j"}}, Returns{Place: Place{Host: "g", Jail: "i"}})
	if got := ByJail(rs); len(got) != 2 || got[0].Place.Jail != "i" || got[1].Place != (Place{Jail: "j"}) || got[1].ToBan.n[0] != 1 {
		t.Errorf("%+v", got)
	}
}
