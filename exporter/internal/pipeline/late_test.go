package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// arrival is a line and when Loki gets it.
type arrival struct {
	Line
	seen time.Time
}

// warehouse is a Loki: it gives what has arrived by now, and counts it.
type warehouse struct {
	lines  []arrival    // by time
	given  int          // lines read
	asked  int          // counting queries
	refuse error        // of counting queries
	mixed  bool         // streams are of several hosts
	torn   int          // answers of a host's lines that will break off
	down   [2]time.Time // lines after the first cannot be read until the second
}

func (s *warehouse) Lines(ctx context.Context, from, to time.Time) iter.Seq2[Line, error] {
	return s.StreamLines(ctx, "", from, to)
}

func (s *warehouse) StreamLines(_ context.Context, stream string, from, to time.Time) iter.Seq2[Line, error] {
	return s.some(from, to, func(l *Line) bool { return stream == "" || l.Stream == stream })
}

func (s *warehouse) HostLines(_ context.Context, host string, from, to time.Time) iter.Seq2[Line, error] {
	all := s.some(from, to, func(l *Line) bool { return l.Host == host })
	return func(yield func(Line, error) bool) {
		n := 0
		for l, err := range all {
			if n++; n == 100 && s.torn > 0 {
				s.torn--
				yield(Line{}, errDown)
				return
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

func (s *warehouse) some(from, to time.Time, want func(*Line) bool) iter.Seq2[Line, error] {
	now := time.Now()
	return func(yield func(Line, error) bool) {
		if !from.Before(s.down[0]) && now.Before(s.down[1]) {
			yield(Line{}, errDown)
			return
		}
		for _, l := range s.lines {
			if l.At.Before(from) || !l.At.Before(to) || l.seen.After(now) || !want(&l.Line) {
				continue
			}
			s.given++
			if !yield(l.Line, nil) {
				return
			}
		}
	}
}

func (s *warehouse) Count(ctx context.Context, from, to time.Time) (n uint64, err error) {
	counts, err := s.CountByStream(ctx, nil, from, to)
	for _, c := range counts {
		n += c.N
	}
	return n, err
}

func (s *warehouse) CountByStream(_ context.Context, _ []string, from, to time.Time) ([]StreamCount, error) {
	s.asked++
	n := map[string]*StreamCount{}
	for _, l := range s.lines {
		if !l.At.Before(from) && l.At.Before(to) && !l.seen.After(time.Now()) {
			if n[l.Stream] == nil {
				n[l.Stream] = &StreamCount{Stream: l.Stream, Host: l.Host}
				if s.mixed {
					n[l.Stream].Host = ""
				}
			}
			n[l.Stream].N++
		}
	}
	var out []StreamCount
	for _, c := range n {
		out = append(out, *c)
	}
	return out, s.refuse
}

var errDown = errors.New("out of order")

// watch follows a warehouse for a time and tells what came of it.
type watch struct {
	kept
	late, rebuilds int
	revised        uint64
	fell           []string
	countries      map[string]uint64
	lookback       time.Duration // a minute where not set
}

func (k *watch) run(t *testing.T, w *warehouse, length time.Duration) {
	k.said, k.counts = map[string]int{}, map[string]int{}
	k.begin, k.board = time.Now(), NewBoard(offender.Options{Origin: func(a netip.Addr) offender.Origin {
		return offender.Origin{Country: string('A' + rune(a.As16()[15]%8))}
	}})
	k.recent = NewRecent(1000)
	own := k.board.For("s")
	own.Tell(10)
	feed := NewFeed(FeedOptions{
		Correlate: correlate.Options{Open: true}, Zone: func(string) *time.Location { return time.UTC }, Board: own, Tally: true,
		Count: func(r string) { k.counts[r]++ },
	})
	f := NewFollower(FollowOptions{
		Name: "s", Lookback: cmp.Or(k.lookback, time.Minute), Lag: 10 * time.Second, Poll: 15 * time.Second, MaxLateness: time.Hour, AuditWindow: 7 * 24 * time.Hour,
		AuditInterval: 10 * time.Minute, Recent: k.recent, Late: func(n int) { k.late += n },
		Rebuilt: func(n uint64) { k.rebuilds, k.revised = k.rebuilds+1, k.revised+n },
	}, w, feed, []Sink{k}, quiet(), func(s Status) {
		if s.Err != nil && !errors.Is(s.Err, errDown) {
			t.Error(s.Err)
		}
		if s.CaughtUp {
			k.fall(k.last.Report, s.Report)
			k.last = s
			countries := k.board.Countries()
			for c, n := range k.countries {
				if countries[c] < n {
					k.fell = append(k.fell, fmt.Sprint("bans of country ", c))
				}
			}
			k.countries = countries
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), length+7*time.Second) // between two polls
	defer cancel()
	if err := f.Run(ctx); err != nil {
		t.Error(err)
	}
}

// told is the outcome without what depends on the order between hosts: when an
// id of several became a repeat offender, and the last digits of its score.
func (k *watch) told() map[string]any {
	out := k.outcome()
	var said, ranking []string
	for s := range k.said {
		if !strings.HasPrefix(s, "{At:") {
			said = append(said, s)
		}
	}
	slices.Sort(said)
	for _, r := range k.board.Rank(k.begin, 100).Rows {
		r.Parts.Mass, r.Parts.Strength, r.Parts.Hosts, r.Parts.Jails = rounded(r.Parts.Mass), rounded(r.Parts.Strength), rounded(r.Parts.Hosts), rounded(r.Parts.Jails)
		r.Score = rounded(r.Score)
		ranking = append(ranking, fmt.Sprintf("%+v", r))
	}
	out["said"], out["ranking"] = said, ranking
	return out
}

func rounded(f float64) float64 { return math.Round(f*1e9) / 1e9 }

// fall notes counters that fell.
func (k *watch) fall(was, is correlate.Report) {
	if off, _ := is.Behind(&was); off.Hosts != nil {
		for _, h := range off.Hosts {
			for _, j := range h.Jails {
				if j.Counts != (correlate.Counts{}) || j.GapSeconds.Total > 0 || j.Reoffence.Total > 0 {
					k.fell = append(k.fell, fmt.Sprint(h.Host, j))
				}
			}
		}
	}
}

// arriving gives the fleet's lines twice, an hour between, each seen after a
// delay, in a Loki's order.
func arriving(t *testing.T, begin time.Time, delay func(l *Line) time.Duration) *warehouse {
	lines := fleet(t)
	slices.SortStableFunc(lines, func(a, b Line) int { return a.At.Compare(b.At) })
	w := &warehouse{}
	for _, at := range []time.Time{begin, begin.Add(70 * time.Minute)} {
		for _, l := range shifted(lines, at) {
			w.lines = append(w.lines, arrival{l, l.At.Add(delay(&l))})
		}
	}
	return w
}

// A host that was cut off for up to max_lateness, lines that arrive in another
// order than they were logged in: all is counted as if it had been on time,
// nothing is read again, and the queries stay few.
func TestLateLines(t *testing.T) {
	const length = 4 * time.Hour
	run := func(delay func(l *Line) time.Duration) (*watch, *warehouse) {
		k, w := &watch{}, (*warehouse)(nil)
		synctest.Test(t, func(t *testing.T) {
			w = arriving(t, time.Now().Add(time.Minute), delay)
			k.run(t, w, length)
		})
		return k, w
	}
	want, onTime := run(func(*Line) time.Duration { return 0 })
	r := rand.New(rand.NewPCG(1, 2))
	got, late := run(func(l *Line) time.Duration {
		if l.Host != "web-2" {
			return time.Duration(r.IntN(5000)) * time.Millisecond // shuffled within 5 s
		}
		return 50 * time.Minute
	})
	if diff := gocmp.Diff(want.told(), got.told()); diff != "" {
		t.Error(diff)
	}
	if want.late != 0 || got.late == 0 || got.rebuilds != 0 {
		t.Errorf("%d and %d late, %d rebuilds", want.late, got.late, got.rebuilds)
	}
	if share := float64(late.given) / float64(len(late.lines)); share > 1.25 {
		t.Errorf("%d lines read, %d are there: %.2f times", late.given, len(late.lines), share)
	}
	polls := int(length / (15 * time.Second))
	if onTime.asked > polls+polls/10 {
		t.Errorf("%d counting queries in %d polls", onTime.asked, polls)
	}
	if len(got.fell)+len(want.fell) > 0 {
		t.Errorf("counters fell: %v", got.fell)
	}
}

// A host ships what is older than what was read of the past, before that has
// been read to its end.
func TestLateWhileThePastIsRead(t *testing.T) {
	run := func(late bool) *watch {
		k := &watch{lookback: 24*time.Hour + time.Minute} // a window of a day, and one of less than a minute
		synctest.Test(t, func(t *testing.T) {
			now := time.Now()
			w := arriving(t, now.Add(-3*time.Minute), func(l *Line) time.Duration {
				if late && l.Host == "web-2" {
					return max(0, now.Add(2*time.Minute).Sub(l.At))
				}
				return 0
			})
			if late {
				w.down = [2]time.Time{now.Add(-time.Minute), now.Add(5 * time.Minute)}
			}
			k.run(t, w, 4*time.Hour)
		})
		return k
	}
	want, got := run(false), run(true)
	if diff := gocmp.Diff(want.told(), got.told()); diff != "" {
		t.Error(diff)
	}
	if got.late == 0 || got.rebuilds != 0 {
		t.Errorf("%d late, %d rebuilds", got.late, got.rebuilds)
	}
}

// Lines that come in the midst of what was judged, or long after max_lateness:
// the totals become right, counters only rise, and what happened is counted.
func TestTooLateLines(t *testing.T) {
	midst := func(begin time.Time, l *Line) time.Duration {
		if since := l.At.Sub(begin); l.Host == "web-2" && since > 50*time.Second && since < 100*time.Second {
			return 30 * time.Minute
		}
		return 0
	}
	const mixed = "streams of several hosts"
	for name, delay := range map[string]func(begin time.Time, l *Line) time.Duration{
		"in the midst": midst, mixed: midst,
		"one stream of two": func(begin time.Time, l *Line) time.Duration {
			if l.Host != "web-2" || l.At.UnixMilli()%2 == 0 {
				return 0
			}
			l.Stream = "web-2 too"
			if since := l.At.Sub(begin); since > 50*time.Second && since < time.Hour {
				return 30 * time.Minute
			}
			return 0
		},
		"a day late": func(begin time.Time, l *Line) time.Duration {
			if l.Host == "web-1" && l.At.Sub(begin) > 40*time.Second && l.At.Sub(begin) < time.Hour {
				return 24 * time.Hour
			}
			return 0
		},
		"for a while": func(_ time.Time, l *Line) time.Duration { // a backlog that takes an hour to arrive
			if l.Host == "bastion" && l.Text[14:16] > "01" {
				return 3*time.Hour + time.Duration(l.At.Nanosecond()/1e6)*4*time.Second
			}
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			const length = 27 * time.Hour
			var want, got watch
			late := 0
			var w *warehouse
			synctest.Test(t, func(t *testing.T) {
				want.run(t, arriving(t, time.Now().Add(time.Minute), func(*Line) time.Duration { return 0 }), length)
			})
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now().Add(time.Minute)
				w = arriving(t, begin, func(l *Line) time.Duration {
					d := delay(begin, l)
					if d > 0 {
						late++
					}
					return d
				})
				w.torn, w.mixed = 2, name == mixed
				got.run(t, w, length)
			})
			hosts := map[string]int{}
			for _, l := range w.lines {
				hosts[l.Host]++
			}
			if w.mixed {
				hosts, w.torn = map[string]int{"all": len(w.lines)}, 0
			}
			// the late host alone is read again, once for each time that more of it has come
			if again, most := w.given-len(w.lines), (got.rebuilds+1)*slices.Max(slices.Collect(maps.Values(hosts)))+200; again > most {
				t.Errorf("%d lines were read again, %d rebuilds, the hosts have %v", again, got.rebuilds, hosts)
			}
			if w.torn != 0 {
				t.Errorf("%d answers did not break off", w.torn)
			}
			t.Logf("%d late, %d rebuilds, %d revised", got.late, got.rebuilds, got.revised)
			if got.late != late || got.rebuilds == 0 || len(got.fell) > 0 {
				t.Errorf("%d late of %d, %d rebuilds, fell: %v", got.late, late, got.rebuilds, got.fell)
			}
			if diff := gocmp.Diff(want.counts, got.counts); diff != "" {
				t.Error(diff)
			}
			// verdicts taken back stay counted; everything else is as on time
			off, back := want.last.Report.Behind(&got.last.Report)
			if back > got.revised {
				t.Errorf("%d verdicts more than there are, %d revised: %+v", back, got.revised, off)
			}
			if _, missing := got.last.Report.Behind(&want.last.Report); missing != 0 {
				t.Errorf("%d verdicts are missing", missing)
			}
			if diff := gocmp.Diff(want.told()["ranking"], got.told()["ranking"]); diff != "" {
				t.Error(diff)
			}
			if diff := gocmp.Diff(want.recent.Restores(), got.recent.Restores()); diff != "" {
				t.Error(diff)
			}
			for said := range want.said {
				if got.said[said] == 0 && !strings.HasPrefix(said, "{At:") {
					t.Errorf("not said: %s", said)
				}
			}
		})
	}
}

// A Loki that answers no metric queries is read all the same, and asked again
// now and then.
func TestLokiThatDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := arriving(t, time.Now(), func(*Line) time.Duration { return 0 })
		w.refuse = errors.New("not allowed")
		feed := NewFeed(FeedOptions{Tally: true, Zone: func(string) *time.Location { return time.UTC }})
		lines := 0
		feed.o.Count = func(string) { lines++ }
		f := NewFollower(FollowOptions{
			Name: "s", Lookback: time.Minute, Lag: time.Second, Poll: 15 * time.Second, MaxLateness: time.Hour, Fatal: func(error) bool { return true },
		}, w, feed, nil, quiet(), func(Status) {})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		if err := f.Run(ctx); err != nil || lines != len(w.lines) || w.asked < 10 || w.asked > 13 {
			t.Errorf("%v; %d lines of %d; asked %d times", err, lines, len(w.lines), w.asked)
		}
	})
}
