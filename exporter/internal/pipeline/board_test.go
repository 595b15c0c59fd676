package pipeline

import (
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

var (
	utc   = func(string) *time.Location { return time.UTC }
	stamp = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)
)

// moved moves lines in time by whole seconds, with all stamps in them.
func moved(lines []Line, by time.Duration) (out []Line) {
	by = by.Truncate(time.Second)
	for _, l := range lines {
		l.At = l.At.Add(by)
		l.Text = stamp.ReplaceAllStringFunc(l.Text, func(s string) string {
			at, _ := time.Parse(time.DateTime, s)
			return at.Add(by).Format(time.DateTime)
		})
		out = append(out, l)
	}
	return out
}

// fed feeds lines to a board and ends.
func fed(t *testing.T, b *Board, lines []Line) *Feed {
	t.Helper()
	f := NewFeed(FeedOptions{Board: b, Zone: utc})
	last := lines[len(lines)-1].At.Add(time.Second)
	if err := f.Read(context.Background(), &tape{lines: lines}, lines[0].At, last); err != nil {
		t.Fatal(err)
	}
	f.Engine().Finish(f.Engine().Newest())
	return f
}

// standings is what the score is made of, by id, with the score.
func standings(b *offender.Board, now time.Time) map[string]string {
	out := map[string]string{}
	for _, r := range b.Rank(now, 1<<20).Rows {
		if r.Bans > 0 {
			out[r.ID] = fmt.Sprintf("score %.9f bans %d hosts %d jails %d last %s %s escalated %t", r.Score, r.Bans, r.Hosts, r.Jails, r.LastBan, r.Standing, r.Escalated)
		}
	}
	return out
}

// everything is all that a board says.
func everything(b *offender.Board, now time.Time) string {
	var out strings.Builder
	ranking := b.Rank(now, 1<<20)
	fmt.Fprintln(&out, ranking.Tracked, ranking.Repeat, ranking.Persistent)
	for _, r := range ranking.Rows {
		r.Score, r.Parts = math.Round(r.Score*1e6)/1e6, offender.Parts{}
		fmt.Fprintf(&out, "%+v\n", r)
	}
	for _, n := range b.Networks(now, 1<<20) {
		n.Score, n.Parts = math.Round(n.Score*1e6)/1e6, offender.Parts{}
		fmt.Fprintf(&out, "%+v\n", n)
	}
	fmt.Fprintf(&out, "%+v\n", b.Campaigns(now, 100))
	for _, r := range b.Returns(func(string, string) time.Time { return now }) {
		fmt.Fprintln(&out, r.Place, r.Ends, r.Before, r.During, r.After, r.Banned, r.ToBan.Estimate(), r.ToFailure.Estimate())
	}
	return out.String()
}

// The ranking of a fleet is that of its parts, added up: each host read alone
// into a board of its own, and the three merged.
func TestBoardsOfHostsAddUp(t *testing.T) {
	whole, parts := NewBoard(offender.Options{}), offender.NewBoard(offender.Options{})
	var all []Line
	for _, host := range []string{"bastion", "web-1", "web-2"} {
		lines := recorded(t, "multihost/"+host)
		for i := range lines {
			lines[i].Host, lines[i].Stream = host, host
		}
		all = append(all, lines...)
		own := NewBoard(offender.Options{})
		fed(t, own.For("loki"), lines)
		parts.Merge(own.Freeze())
	}
	slices.SortStableFunc(all, func(a, b Line) int { return a.At.Compare(b.At) })
	f := fed(t, whole.For("loki"), all)
	now := f.Engine().Newest()
	want := everything(whole.Freeze(), now)
	if diff := cmp.Diff(want, everything(parts, now)); diff != "" || len(whole.Rank(now, 100).Rows) < 5 {
		t.Errorf("%s (-one board +merged):\n%s", want, diff)
	}
}

// Hosts of the same name in two sources are two hosts.
func TestTwoSourcesWithTheSameHost(t *testing.T) {
	b, lines := NewBoard(offender.Options{}), recorded(t, "basic-expiry")
	fed(t, b.For("eu"), lines)
	f := fed(t, b.For("us"), lines)
	once := NewBoard(offender.Options{})
	fed(t, once, lines)
	now := f.Engine().Newest()
	for _, r := range once.Rank(now, 100).Rows {
		got, _ := b.all.board.Of(r.ID, now)
		if got.Bans != 2*r.Bans || got.Hosts != 2*r.Hosts || got.Jails != r.Jails || got.Failures != 2*r.Failures {
			t.Errorf("two sources: %+v, one: %+v", got, r)
		}
	}
}

// A window read again changes nothing at all; a whole log told again, as after
// a restart of the exporter that kept the ranking, changes no score.
func TestReplay(t *testing.T) {
	for _, name := range []string{"soak", "crash-kill9", "recidive", "increment", "gap-attack", "reread", "manual-unban"} {
		lines := recorded(t, name)
		b := NewBoard(offender.Options{})
		f := NewFeed(FeedOptions{Board: b, Zone: utc})
		half := lines[len(lines)/2].At
		for _, w := range [][2]time.Time{{lines[0].At, half}, {lines[0].At, half}, {lines[0].At, half.Add(time.Hour)}, {half, half.Add(time.Hour)}} {
			if err := f.Read(context.Background(), &tape{lines: lines}, w[0], w[1]); err != nil {
				t.Fatal(err)
			}
		}
		f.Engine().Finish(f.Engine().Newest())
		now := f.Engine().Newest()
		once := NewBoard(offender.Options{})
		fed(t, once, lines)
		if diff := cmp.Diff(everything(once.Freeze(), now), everything(b.Freeze(), now)); diff != "" {
			t.Errorf("%s, windows read again: %s", name, diff)
		}
		fed(t, b, lines)
		if diff := cmp.Diff(standings(once.Freeze(), now), standings(b.Freeze(), now)); diff != "" {
			t.Errorf("%s, told again: %s", name, diff)
		}
	}
}

// What a restart does to a log changes no score: the recording beside itself
// without the lines of its restarts (the stop's unbans, the lifecycle, the
// restores), whatever the version that wrote it.
func TestRestartsAreInvisible(t *testing.T) {
	seen := 0
	for _, name := range []string{"clean-restart", "lifecycle-1.1.1", "lifecycle-0.11.2", "lifecycle-0.10.6", "crash-kill9"} {
		lines := recorded(t, name)
		var without []Line
		starts, down := 0, false
		for _, l := range lines {
			switch {
			case strings.Contains(l.Text, "Shutdown in progress"):
				down = true
			case strings.Contains(l.Text, "Starting Fail2ban"):
				starts++
				down = starts > 1
			case down && (strings.Contains(l.Text, "Found ") || strings.Contains(l.Text, "] Ban ")):
				down = false
			}
			if !down && !strings.Contains(l.Text, "Restore Ban ") {
				without = append(without, l)
			}
		}
		with, bare := NewBoard(offender.Options{}), NewBoard(offender.Options{})
		f := fed(t, with, lines)
		fed(t, bare, without)
		now := f.Engine().Newest()
		restores := 0
		for _, r := range with.Rank(now, 1000).Rows {
			restores += r.Restores
		}
		want := standings(bare.Freeze(), now)
		if diff := cmp.Diff(want, standings(with.Freeze(), now)); diff != "" || len(want) == 0 || starts < 2 {
			t.Errorf("%s, %d starts, %d restores (-without restarts +as it is):\n%s", name, starts, restores, diff)
		}
		seen += restores
	}
	if seen == 0 {
		t.Error("no restores in any of them")
	}
}

// Each finding of the ranking is said once, the same whether the log is read at
// once, in windows or with windows read again; and it says what the ranking
// said then.
func TestRankingFindings(t *testing.T) {
	for _, name := range []string{"soak", "recidive", "increment"} {
		lines := recorded(t, name)
		middle := lines[len(lines)/2].At
		lines = moved(lines, middle.Truncate(time.Hour).Add(time.Hour).Sub(middle)) // an hour ends in its midst
		hour := lines[len(lines)/2].At.Add(time.Second).Truncate(time.Hour)
		said := map[time.Duration]string{}
		var ranked, reached []offender.Finding
		for _, window := range []time.Duration{time.Hour, 7 * time.Second, time.Second} {
			all := NewBoard(offender.Options{})
			b := all.For("loki")
			b.Tell(5)
			if window == time.Second { // as one of several
				b.Separate(offender.Options{})
			}
			f := NewFeed(FeedOptions{Board: b, Zone: utc, Parser: fail2ban.Options{Newest: lines[0].At.Add(24 * time.Hour)}})
			ranked, reached = nil, nil
			for from := lines[0].At; !from.After(lines[len(lines)-1].At); from = from.Add(window) {
				b.upTo(from.Add(window))
				for range 2 {
					if err := f.Read(context.Background(), &tape{lines: lines}, from, from.Add(window)); err != nil {
						t.Fatal(err)
					}
				}
				for _, x := range b.Findings() {
					said[window] += fmt.Sprintf("%+v\n", x)
					if x.Reached == offender.None {
						ranked = append(ranked, x)
					} else {
						reached = append(reached, x)
					}
				}
			}
			f.Engine().Finish(f.Engine().Newest())
			for _, x := range b.Findings() {
				reached = append(reached, x)
				said[window] += fmt.Sprintf("%+v\n", x)
			}
			now := f.Engine().Newest()
			r := all.Rank(now, 1<<20)
			repeat, persistent := map[string]int{}, map[string]int{}
			for _, x := range reached {
				if now := map[offender.Standing]map[string]int{offender.Repeat: repeat, offender.Persistent: persistent}[x.Reached]; now != nil {
					now[x.Row.ID]++
				}
				if want := map[offender.Standing]int{offender.Repeat: 2, offender.Persistent: 5}[x.Reached]; x.Row.Bans != want || !x.At.Equal(x.Row.LastBan) || x.Row.Rank != 0 || x.Row.Score <= 0 {
					t.Errorf("%s: %+v", name, x)
				}
			}
			if len(repeat) != r.Repeat || len(persistent) != r.Persistent || len(reached) != r.Repeat+r.Persistent {
				t.Errorf("%s: %d repeat and %d persistent offenders are told in %d findings, there are %d and %d", name, len(repeat), len(persistent), len(reached), r.Repeat, r.Persistent)
			}
		}
		if said[time.Hour] != said[7*time.Second] || said[time.Hour] != said[time.Second] {
			t.Errorf("%s (-at once +in windows): %s", name, cmp.Diff(said[time.Hour], said[7*time.Second]))
		}
		if len(ranked) == 0 || len(ranked) > 5 {
			t.Fatalf("%s: %d rows of hours", name, len(ranked))
		}
		// The same rows from a board that tells no findings, asked in its midst.
		plain := NewBoard(offender.Options{})
		var want []offender.Row
		plain.Watch = func(ob correlate.Observation, _ offender.Place) {
			if want == nil && !ob.Time.Before(hour) {
				want = plain.Rank(hour, 5).Rows
			}
		}
		fed(t, plain.For("loki"), lines)
		if len(want) != len(ranked) {
			t.Fatalf("%s: %d rows, not %d", name, len(ranked), len(want))
		}
		for i := range want {
			if diff := cmp.Diff(want[i], ranked[i].Row); diff != "" || !ranked[i].At.Equal(hour) {
				t.Errorf("%s, row %d at %s: %s", name, i, ranked[i].At, diff)
			}
		}
	}
}

// A host whose clock runs ahead does not end the hour of all.
func TestClockAhead(t *testing.T) {
	b := NewBoard(offender.Options{}).For("loki")
	b.Tell(5)
	lines := recorded(t, "soak")
	b.upTo(lines[0].At.Add(time.Hour))
	f := NewFeed(FeedOptions{Board: b, Zone: utc})
	for i, l := range lines {
		if i == 10 {
			ahead := moved([]Line{l}, 3*time.Hour)[0]
			ahead.At, ahead.Host = l.At, "ahead"
			f.Add(ahead)
		}
		f.Add(l)
	}
	f.Flush()
	for _, x := range b.Findings() {
		if x.Reached == offender.None && x.At.After(lines[len(lines)-1].At) {
			t.Errorf("%+v", x)
		}
	}
}

// Who is ignored is in no ranking.
func TestIgnored(t *testing.T) {
	rank := func(ignore func(string) bool) map[string]bool {
		b := NewBoard(offender.Options{})
		b.Ignore = ignore
		f := NewFeed(FeedOptions{Board: b.For("loki")})
		for _, l := range recorded(t, "soak") {
			f.Add(l)
		}
		f.Flush()
		ids := map[string]bool{}
		for _, o := range b.Rank(f.Engine().Newest(), 1000).Rows {
			ids[o.ID] = true
		}
		return ids
	}
	all := rank(nil)
	first := slices.Sorted(maps.Keys(all))[0]
	some := rank(func(id string) bool { return id == first })
	if len(all) < 2 || some[first] || len(some) != len(all)-1 {
		t.Errorf("%d ranked, %d without %s", len(all), len(some), first)
	}
}
