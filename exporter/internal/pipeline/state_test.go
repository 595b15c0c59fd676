package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// shelf is a source in memory that breaks off after some lines when asked to.
type shelf struct {
	lines   []Line
	breakIn int // lines until it breaks off; negative never
}

var errBroken = errors.New("connection reset")

func (s *shelf) Lines(_ context.Context, from, to time.Time) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for _, l := range s.lines {
			if l.At.Before(from) || !l.At.Before(to) {
				continue
			}
			if s.breakIn == 0 {
				yield(Line{}, errBroken)
				return
			}
			s.breakIn--
			if !yield(l, nil) {
				return
			}
		}
	}
}

// fleet gives the lines of three recorded hosts as Loki has them, and their
// zones as what the entries' times tell.
func fleet(t *testing.T) (lines []Line) {
	t.Helper()
	for _, host := range []string{"web-1", "web-2", "bastion"} {
		text, err := os.ReadFile("../../../testdata/recordings/multihost/" + host + "/fail2ban.log")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if at, err := time.Parse("2006-01-02 15:04:05,000", line[:min(23, len(line))]); err == nil {
				lines = append(lines, Line{Host: host, At: at, Text: strings.TrimSpace(line), Stream: host})
			}
		}
	}
	return lines
}

// One batch, any windows, windows read twice or broken off, the program killed
// and started again from its state between any two, equal instants in any
// order: always the same findings, each once, and the same state.
func TestWindowsDoNotMatter(t *testing.T) {
	lines := fleet(t)
	byTime := func(a, b Line) int { return a.At.Compare(b.At) }
	slices.SortStableFunc(lines, byTime)
	from, to := lines[0].At, lines[len(lines)-1].At.Add(time.Millisecond)
	o := FeedOptions{Correlate: correlate.Options{Events: true}}
	whole := NewFeed(o)
	if err := whole.Read(t.Context(), &shelf{lines: lines, breakIn: -1}, from, to); err != nil {
		t.Fatal(err)
	}
	want := strings.Split(summed(whole, nil), "\n")
	rapid.Check(t, func(rt *rapid.T) {
		order := rapid.Permutation(lines).Draw(rt, "order")
		slices.SortStableFunc(order, byTime)
		f := NewFeed(o)
		var said []correlate.Finding
		for at := from; at.Before(to); {
			end := at.Add(time.Duration(rapid.IntRange(1, 60_000).Draw(rt, "window")) * time.Millisecond)
			if rapid.IntRange(0, 3).Draw(rt, "broken") == 0 {
				err := f.Read(t.Context(), &shelf{lines: order, breakIn: rapid.IntRange(0, 50).Draw(rt, "after")}, at, end)
				if err != nil && !errors.Is(err, errBroken) {
					rt.Fatal(err)
				}
			}
			again := at.Add(-time.Duration(rapid.IntRange(0, 30_000).Draw(rt, "again")) * time.Millisecond)
			if err := f.Read(t.Context(), &shelf{lines: order, breakIn: -1}, again, end); err != nil {
				rt.Fatal(err)
			}
			said = append(said, f.Engine().Findings()...)
			if rapid.Bool().Draw(rt, "killed") {
				f = restarted(rt, f, o)
			}
			at = end
		}
		if diff := cmp.Diff(want, strings.Split(summed(f, said), "\n")); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func restarted(t *rapid.T, f *Feed, o FeedOptions) *Feed {
	var b bytes.Buffer
	if err := f.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadFeed(&b, o)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// summed ends a feed and writes all that it has said and knows.
func summed(f *Feed, said []correlate.Finding) string {
	e := f.Engine()
	e.Finish(e.Newest())
	said = append(said, e.Findings()...)
	slices.SortStableFunc(said, correlate.Compare)
	var b strings.Builder
	for _, x := range said {
		fmt.Fprintf(&b, "%s %s %s %s %s %+v %+v %+v %+v %+v %+v\n", x.Kind, x.Time, x.Host, x.Jail, x.ID, x.Event, x.Ban, x.Restore, x.Lost, x.Reoffence, x.Restart)
	}
	for _, host := range e.Hosts() {
		fmt.Fprintf(&b, "%s %+v\n", host, f.Coverage(host))
	}
	fmt.Fprintf(&b, "%+v", e.Report(true))
	return b.String()
}

// A feed's state that was cut anywhere is refused.
func TestLoadFeedOfDamage(t *testing.T) {
	f := NewFeed(FeedOptions{})
	lines := fleet(t)
	slices.SortStableFunc(lines, func(a, b Line) int { return a.At.Compare(b.At) })
	if err := f.Read(t.Context(), &shelf{lines: lines[:500], breakIn: -1}, lines[0].At, lines[500].At); err != nil {
		t.Fatal(err)
	}
	f.Engine().Findings()
	var b bytes.Buffer
	if err := f.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < b.Len(); n += 1 + b.Len()/200 {
		if _, err := LoadFeed(bytes.NewReader(b.Bytes()[:n]), FeedOptions{}); err == nil {
			t.Fatalf("%d of %d bytes were taken for a state", n, b.Len())
		}
	}
}
