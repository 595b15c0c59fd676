package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorded gives a recording's lines with the times of entries, which are all
// but unique: equal milliseconds stay equal.
func recorded(t *testing.T, name string) (lines []Line) {
	t.Helper()
	text, err := os.ReadFile("../../../testdata/recordings/" + name + "/fail2ban.log")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		at, err := time.Parse("2006-01-02 15:04:05,000", line[:23])
		if err != nil {
			continue // output of an action
		}
		lines = append(lines, Line{Host: "web-1", At: at, Text: strings.TrimSpace(line), Stream: "s"})
	}
	slices.SortStableFunc(lines, func(a, b Line) int { return a.At.Compare(b.At) })
	return lines
}

func told(f *Feed) string {
	e := f.Engine()
	e.Finish(e.Newest())
	var b strings.Builder
	fs := e.Findings()
	slices.SortStableFunc(fs, correlate.Compare)
	for _, x := range fs {
		fmt.Fprintf(&b, "%s %s %s %s %+v %+v %+v\n", x.Kind, x.Time, x.Jail, x.ID, x.Event, x.Ban, x.Restore)
	}
	fmt.Fprintf(&b, "%+v", e.Report(true))
	return b.String()
}

// Loki promises no order among the lines of one instant: whichever they come
// in, the result is the same.
func TestOrderWithinAnInstant(t *testing.T) {
	for _, name := range []string{"soak", "increment", "reload-all", "crash-kill9"} {
		lines := recorded(t, name)
		o := FeedOptions{Correlate: correlate.Options{Events: true}}
		first := NewFeed(o)
		for _, l := range lines {
			first.Add(l)
		}
		first.Flush()
		want := told(first)
		for seed := range uint64(5) {
			shuffled := slices.Clone(lines)
			rand.New(rand.NewPCG(seed, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			slices.SortStableFunc(shuffled, func(a, b Line) int { return a.At.Compare(b.At) })
			f := NewFeed(o)
			for _, l := range shuffled {
				f.Add(l)
			}
			f.Flush()
			if diff := cmp.Diff(want, told(f)); diff != "" {
				t.Fatalf("%s, order %d: %s", name, seed, diff)
			}
		}
	}
}

// Our own findings are never read as fail2ban's.
func TestOwnLines(t *testing.T) {
	results := map[string]int{}
	f := NewFeed(FeedOptions{Count: func(r string) { results[r]++ }})
	for _, l := range recorded(t, "basic-expiry") {
		l.Own = true
		f.Add(l)
	}
	f.Flush()
	if len(f.Engine().Hosts()) != 0 || results[ResultOwn] == 0 || len(results) != 1 {
		t.Errorf("hosts %v, results %v", f.Engine().Hosts(), results)
	}
}

// tape is a source that fails as told and gives its lines by their times.
type tape struct {
	lines []Line
	fail  []error
	asked []string
}

func (s *tape) Lines(_ context.Context, from, to time.Time) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		s.asked = append(s.asked, from.Format(time.TimeOnly)+"-"+to.Format(time.TimeOnly))
		if len(s.fail) > 0 {
			err := s.fail[0]
			s.fail = s.fail[1:]
			if err != nil {
				yield(Line{}, err)
				return
			}
		}
		for _, l := range s.lines {
			if !l.At.Before(from) && l.At.Before(to) && !yield(l, nil) {
				return
			}
		}
	}
}

// drain keeps the findings.
type drain struct {
	got  []correlate.Finding
	upTo time.Time
}

func (d *drain) Name() string { return "drain" }

func (d *drain) Publish(_ context.Context, _ string, upTo time.Time, fs []correlate.Finding, _ []offender.Finding) {
	d.upTo, d.got = upTo, append(d.got, fs...)
}

func (d *drain) Taken(string) time.Time { return d.upTo }

func (d *drain) Flush(context.Context) error { return nil }

// shifted moves a recording such that it begins at a time.
func shifted(lines []Line, to time.Time) (out []Line) {
	by := to.Sub(lines[0].At)
	for _, l := range lines {
		l.At = l.At.Add(by)
		l.Text = l.At.UTC().Format("2006-01-02 15:04:05,000") + l.Text[23:]
		out = append(out, l)
	}
	return out
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// The follower reads the past once and then what comes, each line once, in
// half-open windows behind its lag; Loki's failures lose nothing.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		down := errors.New("down")
		src := &tape{lines: shifted(recorded(t, "crash-kill9"), start.Add(-10*time.Second)), fail: []error{nil, down, down, nil}}
		sink := &drain{}
		lines := 0
		feed := NewFeed(FeedOptions{Zone: func(string) *time.Location { return time.UTC }, Count: func(string) { lines++ }})
		var last Status
		w := NewFollower(FollowOptions{Name: "s", Lookback: time.Minute, Lag: 5 * time.Second, Poll: 7 * time.Second, MaxLateness: time.Minute, Window: 25 * time.Second},
			src, feed, []Sink{sink}, quiet(), func(s Status) { last = s })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if lines != len(src.lines) {
			t.Errorf("%d lines counted, %d are there", lines, len(src.lines))
		}
		if !last.CaughtUp || last.Err != nil || time.Since(last.Cursor) > 13*time.Second {
			t.Errorf("%+v", last)
		}
		if !w.Committed().Equal(last.Cursor) {
			t.Errorf("committed %v, all was taken up to %v", w.Committed(), last.Cursor)
		}
		if got, want := last.Report.Hosts[0].LastLine, src.lines[len(src.lines)-1].At; !got.Equal(want) {
			t.Errorf("the last line is said to be of %v, it is of %v: silence has none", got, want)
		}
		restores := 0
		for _, f := range sink.got {
			if f.Kind == correlate.FindingRestore {
				restores++
			}
		}
		if got := last.Report.Hosts[0].Jails[0].Counts.RestoredBans(); restores != int(got) || got != 6 {
			t.Errorf("%d restores published, %d counted", restores, got)
		}
	})
}

// What no waiting mends ends the program at the start, and only there.
func TestFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := errors.New("wrong password")
		o := FollowOptions{Name: "s", Lookback: time.Minute, Poll: time.Second, Fatal: func(err error) bool { return errors.Is(err, wrong) }}
		w := NewFollower(o, &tape{fail: []error{wrong}}, NewFeed(FeedOptions{}), nil, quiet(), func(Status) {})
		if err := w.Run(t.Context()); !errors.Is(err, wrong) {
			t.Errorf("%v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w = NewFollower(o, &tape{fail: []error{nil, wrong}}, NewFeed(FeedOptions{}), nil, quiet(), func(Status) {})
		if err := w.Run(ctx); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}

// A query that matches nothing is complained of once a minute.
func TestNothingMatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute+30*time.Second)
		defer cancel()
		w := NewFollower(FollowOptions{Name: "s", Lookback: time.Hour, Poll: 10 * time.Second, Query: `{job="x"}`}, &tape{}, NewFeed(FeedOptions{}), nil,
			slog.New(slog.NewTextHandler(&log, nil)), func(Status) {})
		if err := w.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), "no stream matches"); n != 4 {
			t.Errorf("said %d times:\n%s", n, log.String())
		}
	})
}
