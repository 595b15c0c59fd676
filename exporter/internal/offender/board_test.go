package offender

import (
	"bytes"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var day = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

func ids(rows []Row) (out []string) {
	for _, r := range rows {
		out = append(out, r.ID)
	}
	return out
}

func ban(b *Board, p Place, id string, at time.Time) { b.Ban(BanFact{Place: p, ID: id, At: at}) }

// True bans rank; restores do not; ties go to the newer ban, then to the id.
func TestRank(t *testing.T) {
	b := NewBoard(Options{})
	sshd := Place{Host: "web-1", Jail: "sshd"}
	for i, id := range []string{"two", "one-new", "one-old-b", "one-old-a", "two"} {
		at := day.Add(time.Hour)
		switch i {
		case 1:
			at = day.Add(2 * time.Hour)
		case 4:
			at = at.Add(time.Minute)
		}
		ban(b, sshd, id, at)
	}
	for i := range 9 {
		b.Restore(sshd, "restored", day)
		b.Failure(sshd, "failed", day.Add(time.Duration(i)))
	}
	got := b.Rank(day.Add(24*time.Hour), 10)
	if diff := cmp.Diff([]string{"two", "one-new", "one-old-a", "one-old-b", "restored"}, ids(got.Rows)); diff != "" {
		t.Error(diff)
	}
	if got.Tracked != 5 || got.Repeat != 1 || got.Persistent != 0 {
		t.Errorf("tracked %d, repeat %d, persistent %d", got.Tracked, got.Repeat, got.Persistent)
	}
	if short := b.Rank(day, 2); len(short.Rows) != 2 || short.Tracked != 5 {
		t.Errorf("top 2: %+v", short)
	}
	if none := b.Rank(day, 0); len(none.Rows) != 0 || none.Tracked != 5 {
		t.Errorf("top 0: %+v", none)
	}
	if r, ok := b.Of("failed", day); !ok || r.Failures != 9 || r.Score != 0 {
		t.Errorf("%+v", r)
	}
	if _, ok := b.Of("nobody", day); ok {
		t.Error("nobody is known")
	}
}

// Two bans make a repeat offender only within the window, five a persistent
// one, and the ban that does so says it.
func TestStanding(t *testing.T) {
	b := NewBoard(Options{})
	place := Place{Host: "h", Jail: "j"}
	ban(b, place, "x", day)
	ban(b, place, "x", day.Add(20*24*time.Hour))
	for days, want := range map[int]int{20: 1, 30: 1, 31: 0} {
		if got := b.Rank(day.Add(time.Duration(days)*24*time.Hour), 1).Repeat; got != want {
			t.Errorf("after %d days: %d, want %d", days, got, want)
		}
	}
	var got []Standing
	for i := range 6 {
		got = append(got, b.Ban(BanFact{Place: place, ID: "y", At: day.Add(time.Duration(i) * time.Hour)}))
	}
	if diff := cmp.Diff([]Standing{None, Repeat, None, None, Persistent, None}, got); diff != "" {
		t.Error(diff)
	}
	if r, _ := b.Of("y", day.Add(24*time.Hour)); r.Standing != Persistent || r.Standing.String() != "persistent" {
		t.Error(r.Standing)
	}
}

// A recidive jail bans for other jails' bans: no offence more, but a mark.
func TestRecidive(t *testing.T) {
	b := NewBoard(Options{})
	ban(b, Place{Host: "h", Jail: "sshd"}, "x", day)
	ban(b, Place{Host: "h", Jail: "recidive"}, "x", day)
	r := b.Rank(day, 1).Rows[0]
	if r.Bans != 1 || !r.Escalated || r.Jails != 1 {
		t.Errorf("%+v", r)
	}
}

func near(a, b, tolerance float64) bool {
	return math.Abs(a-b) <= tolerance*math.Max(math.Abs(a), math.Abs(b))
}

// The worked values of the score, as docs/score.md tells them.
func TestWorkedValues(t *testing.T) {
	slow := BanFact{HasDelay: true, Delay: 365 * 24 * time.Hour}
	quick := BanFact{HasDelay: true}
	for _, c := range []struct {
		name        string
		facts       []BanFact // all of one moment, but for milliseconds
		o           Score
		after       time.Duration
		mass, x     float64
		hosts, want float64
	}{
		{name: "one ban", facts: []BanFact{{}}, mass: 1, x: 1, hosts: 1, want: 15.91},
		{name: "four slow returns", facts: []BanFact{{}, slow, slow, slow}, mass: 4, x: 4, hosts: 1, want: 50},
		{name: "four quick returns", facts: []BanFact{{}, quick, quick, quick}, mass: 5.5, x: 5.5, hosts: 1, want: 61.44},
		{name: "a fortnight later", facts: []BanFact{{}, quick, quick, quick}, after: 14 * 24 * time.Hour, mass: 1.375, x: 1.375, hosts: 0.25, want: 21.2},
		{name: "three hosts", facts: []BanFact{{Place: Place{Host: "a", Jail: "j"}}, {Place: Place{Host: "b", Jail: "j"}}, {Place: Place{Host: "c", Jail: "j"}}}, mass: 3, x: 7.755, hosts: 3, want: 73.92},
		{name: "two jails", facts: []BanFact{{Place: Place{Host: "a", Jail: "i"}}, {Place: Place{Host: "a", Jail: "j"}}}, mass: 2, x: 3, hosts: 1, want: 40.54},
		{name: "a return after a day", facts: []BanFact{{}, {HasDelay: true, Delay: 24 * time.Hour}}, mass: 2.25, x: 2.25, hosts: 1, want: 32.29},
		{name: "90 points", facts: []BanFact{{}}, o: Score{JailWeights: map[string]float64{"": 13.2877}}, mass: 13.2877, x: 13.2877, hosts: 1, want: 90},
		{name: "by hand", facts: []BanFact{{Manual: true}}, o: Score{ManualWeight: 0.5}, mass: 0.5, x: 0.5, hosts: 1, want: 8.3},
		{name: "by hand for nothing", facts: []BanFact{{Manual: true}}, o: Score{ManualWeight: -1}},
	} {
		s := DefaultScore
		if c.o.ManualWeight != 0 {
			s.ManualWeight = math.Max(0, c.o.ManualWeight)
		}
		s.JailWeights = c.o.JailWeights
		b := NewBoard(Options{Score: &s})
		at := day
		for _, f := range c.facts {
			f.ID, f.At = "x", at
			b.Ban(f)
			at = at.Add(time.Millisecond)
		}
		r, _ := b.Of("x", at.Add(c.after))
		if !near(r.Parts.Mass, c.mass, 1e-3) || !near(r.Parts.Strength, c.x, 1e-3) || !near(r.Parts.Hosts, c.hosts, 1e-3) || !near(r.Score, c.want, 1e-3) {
			t.Errorf("%s: %+v, score %.2f, want mass %g, strength %g, score %g", c.name, r.Parts, r.Score, c.mass, c.x, c.want)
		}
	}
}

// Idle ids of one host keep their order for ever; over several hosts the
// logarithm may swap them, which the documentation says.
func TestIdleRanks(t *testing.T) {
	b := NewBoard(Options{})
	for i, host := range []string{"a", "b", "c", "d"} {
		ban(b, Place{Host: host, Jail: "j"}, "broad", day.Add(time.Duration(i)))
	}
	for i := range 10 {
		ban(b, Place{Host: "a", Jail: "j"}, "deep", day.Add(time.Duration(i)*time.Millisecond))
	}
	if got := ids(b.Rank(day, 2).Rows); got[0] != "broad" {
		t.Error(got)
	}
	if got := ids(b.Rank(day.Add(21*24*time.Hour), 2).Rows); got[0] != "deep" {
		t.Error(got)
	}
	years := b.Rank(day.Add(100*365*24*time.Hour), 2)
	if r := years.Rows[0]; r.Score < 0 || r.Score > 1e-6 || math.IsNaN(r.Score) || r.Bans == 0 {
		t.Errorf("%+v", r)
	}
}

// fact is anything that may be told of an id.
type fact struct {
	kind  int // of facts
	ban   BanFact
	ended bool
}

func (f fact) tell(b *Board) {
	switch f.kind {
	case 0:
		b.Ban(f.ban)
	case 1:
		b.Failure(f.ban.Place, f.ban.ID, f.ban.At)
	case 2:
		b.Restore(f.ban.Place, f.ban.ID, f.ban.At)
	case 3:
		b.GapFailure(f.ban.Place, f.ban.ID, f.ban.At)
	case 4:
		b.End(EndFact{Place: f.ban.Place, ID: f.ban.ID, At: f.ban.At, True: f.ended})
	}
}

// facts draws some facts, each at a time of its own: a place says no two things
// of an id at once.
func facts(t *rapid.T, n int, hosts ...string) []fact {
	var at int64
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fact {
		at += rapid.Int64Range(1, 20*3600*1000).Draw(t, "later")
		f := BanFact{
			Place:  placeOf(t, hosts),
			ID:     rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "root"}).Draw(t, "id"),
			At:     day.Add(time.Duration(at) * time.Millisecond),
			Manual: rapid.Bool().Draw(t, "manual"), HasDelay: rapid.Bool().Draw(t, "returned"),
			Delay: time.Duration(rapid.IntRange(0, 100).Draw(t, "delay")) * time.Hour,
		}
		return fact{rapid.IntRange(0, 4).Draw(t, "kind"), f, rapid.Bool().Draw(t, "true end")}
	}), 0, n).Draw(t, "facts")
}

// placeOf draws a place. Hosts bear the same names in two sources.
func placeOf(t *rapid.T, hosts []string) Place {
	return Place{
		Source: rapid.SampledFrom([]string{"", "b"}).Draw(t, "source"), Host: rapid.SampledFrom(hosts).Draw(t, "host"),
		Jail: rapid.SampledFrom([]string{"sshd", "web", "recidive"}).Draw(t, "jail"),
	}
}

// view is all that a board says, its floats rounded to what does not depend on
// the order of the facts.
func view(b *Board, now time.Time) string {
	var out bytes.Buffer
	rows := b.Rank(now, 10)
	fmt.Fprintf(&out, "%d %d %d\n", rows.Tracked, rows.Repeat, rows.Persistent)
	for _, r := range rows.Rows {
		r.Score, r.Parts = roundScore(r.Score), Parts{rounded(r.Parts.Mass), rounded(r.Parts.Hosts), rounded(r.Parts.Jails), rounded(r.Parts.Strength)}
		fmt.Fprintf(&out, "%+v\n", r)
	}
	for _, n := range b.Networks(now, 10) {
		n.Score, n.Parts = roundScore(n.Score), Parts{}
		fmt.Fprintf(&out, "%+v\n", n)
	}
	fmt.Fprintf(&out, "%+v\n", b.Campaigns(now, 10))
	return out.String()
}

func roundScore(x float64) float64 { return math.Round(x*1e6) / 1e6 }

// The ranking depends neither on the order in which facts come, nor on bans
// that are told again, within 32 bans of an id.
func TestOrderAndDuplicatesDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, 30, "a", "b")
		one, other := NewBoard(Options{}), NewBoard(Options{})
		for _, f := range fs {
			f.tell(one)
		}
		for _, f := range rapid.Permutation(fs).Draw(t, "order") {
			f.tell(other)
			if f.kind == 0 {
				f.tell(other)
			}
		}
		for _, f := range fs {
			if f.kind == 0 {
				f.tell(other)
			}
		}
		now := day.Add(30 * 24 * time.Hour)
		a, b := one.Rank(now, 10), other.Rank(now, 10)
		for i := range a.Rows {
			if !near(a.Rows[i].Parts.Strength, b.Rows[i].Parts.Strength, 1e-9) {
				t.Fatalf("%v %v", a.Rows[i], b.Rows[i])
			}
			b.Rows[i].Parts, b.Rows[i].Score = a.Rows[i].Parts, a.Rows[i].Score
			// The number of bans of a recidive jail, told out of order, shows nowhere.
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A whole log read again, as after a start from an older state, changes no
// score, however many bans it has.
func TestReplayDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, 200, "a", "b")
		from := rapid.IntRange(0, len(fs)).Draw(t, "from")
		one, other := NewBoard(Options{}), NewBoard(Options{})
		for _, f := range fs {
			f.tell(one)
			f.tell(other)
		}
		for _, f := range fs[from:] {
			if f.kind == 0 {
				f.tell(other)
			}
		}
		now := day.Add(100 * 24 * time.Hour)
		if diff := cmp.Diff(one.Rank(now, 10), other.Rank(now, 10)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A restart restores the bans that are active: the ranking and its scores stay.
func TestRestartsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, other := NewBoard(Options{}), NewBoard(Options{})
		now := day.Add(60 * 24 * time.Hour)
		for _, f := range facts(t, 60, "a", "b") {
			if f.kind == 2 {
				continue
			}
			f.tell(one)
			f.tell(other)
			for range rapid.IntRange(0, 3).Draw(t, "restarts") {
				other.Restore(f.ban.Place, f.ban.ID, f.ban.At)
			}
		}
		for _, r := range one.Rank(now, 10).Rows {
			same, _ := other.Of(r.ID, now)
			if same.Parts != r.Parts || same.Score != r.Score || same.Bans != r.Bans || same.Standing != r.Standing {
				t.Fatalf("%+v, without restarts %+v", same, r)
			}
		}
	})
}

// Boards of disjoint hosts merge into the board of all of them, in everything
// they say.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		left, right := facts(t, 60, "a", "b"), facts(t, 60, "c", "d")
		whole, a, b := NewBoard(located), NewBoard(located), NewBoard(located)
		for _, f := range left {
			f.tell(whole)
			f.tell(a)
		}
		for _, f := range right {
			f.tell(whole)
			f.tell(b)
		}
		a.Merge(b)
		now := day.Add(40 * 24 * time.Hour)
		if diff := cmp.Diff(view(whole, now), view(a, now)); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(whole.Countries(), a.Countries()); diff != "" {
			t.Fatal(diff)
		}
		newest := func(string, string) time.Time { return now }
		if diff := cmp.Diff(estimates(whole.Returns(newest)), estimates(a.Returns(newest))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A host of which more was logged than was read can be read again by itself: the
// board is then that of all facts, also when it was kept in a file meanwhile.
func TestReplace(t *testing.T) {
	reached := 0
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, 90, "a", "b", "c")
		whole, b, again := NewBoard(located), NewBoard(located), NewBoard(located)
		for _, f := range fs {
			f.tell(whole)
			late := f.ban.Place.Host == "b" && f.ban.Place.Source == "b"
			if late {
				f.tell(again)
			}
			if !late || rapid.Bool().Draw(t, "in time") {
				f.tell(b)
			}
		}
		for d := range 2 { // one of whom nothing was read in time, so that somebody reaches a standing in every world
			f := fact{ban: BanFact{Place: Place{Source: "b", Host: "b", Jail: "sshd"}, ID: "192.0.2.9", At: day.Add(time.Duration(35+d) * 24 * time.Hour)}}
			f.tell(whole)
			f.tell(again)
		}
		if rapid.Bool().Draw(t, "kept") {
			b = copied(t, b)
		}
		before := map[string]Standing{}
		now := day.Add(40 * 24 * time.Hour)
		for _, r := range b.Rank(now, 1000).Rows {
			before[r.ID] = r.Standing
		}
		b.Replace("elsewhere", "b", NewBoard(located)) // nobody knows it
		found := b.Replace("b", "b", again)
		if diff := cmp.Diff(view(whole, now), view(b, now)); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(whole.Countries(), b.Countries()); diff != "" {
			t.Fatal(diff)
		}
		newest := func(string, string) time.Time { return now }
		if diff := cmp.Diff(estimates(whole.Returns(newest)), estimates(b.Returns(newest))); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(view(whole, now), view(copied(t, b), now)); diff != "" {
			t.Fatal(diff)
		}
		for _, f := range found {
			reached++
			if f.Reached <= before[f.Row.ID] || f.Row.Standing != f.Reached {
				t.Fatalf("%+v, before %v", f, before[f.Row.ID])
			}
		}
	})
	if reached == 0 {
		t.Error("nobody reached a standing")
	}
}

// copied is a board that went through its file.
func copied(t *rapid.T, b *Board) *Board {
	var file bytes.Buffer
	if err := b.Snapshot(&file); err != nil {
		t.Fatal(err)
	}
	back, err := Load(&file, located)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// estimates is what is said of returns.
func estimates(rs []Returns) (out []string) {
	for _, r := range append(rs, Total(rs)) {
		out = append(out, fmt.Sprint(r.Place, r.Ends, r.Before, r.During, r.After, r.Banned, r.ToBan.Estimate(), r.ToFailure.Estimate()))
	}
	return out
}

// One fact more never lowers a score at the same moment; the score stays within
// 0 and 100, falls while nothing happens, and breadth beats volume.
func TestMonotoneAndBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, 60, "a", "b", "c")
		b := NewBoard(Options{})
		now := day.Add(60 * 24 * time.Hour)
		before := map[string]Row{}
		for _, f := range fs {
			f.tell(b)
			r, _ := b.Of(f.ban.ID, now)
			if old := before[f.ban.ID]; r.Score < old.Score-1e-9 || r.Parts.Mass < old.Parts.Mass*(1-1e-12) {
				t.Fatalf("%+v after %+v", r, old)
			}
			later, _ := b.Of(f.ban.ID, now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "hours"))*time.Hour))
			if !(0 <= later.Score && later.Score <= r.Score && r.Score <= 100) {
				t.Fatalf("%v, later %v", r.Score, later.Score)
			}
			before[f.ban.ID] = r
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 50).Draw(t, "bans")
		b := NewBoard(Options{})
		for i := range n {
			at := day.Add(time.Duration(i) * time.Minute)
			ban(b, Place{Host: fmt.Sprint(i), Jail: "j"}, "broad", at)
			ban(b, Place{Host: "0", Jail: "j"}, "deep", at)
		}
		broad, _ := b.Of("broad", day)
		deep, _ := b.Of("deep", day)
		if broad.Score <= deep.Score {
			t.Fatal(broad.Score, deep.Score)
		}
	})
}

// Thirty years of bans neither overflow nor lose what is new.
func TestYears(t *testing.T) {
	b := NewBoard(Options{})
	at := day.AddDate(-30, 0, 0)
	for range 30 * 365 {
		ban(b, Place{Host: "h", Jail: "j"}, "x", at)
		at = at.Add(24 * time.Hour)
	}
	r, _ := b.Of("x", at.Add(-24*time.Hour))
	if want := 1 / (1 - math.Exp2(-1./7)); !near(r.Parts.Mass, want, 1e-9) {
		t.Errorf("%v, want %v", r.Parts.Mass, want)
	}
	if r.Bans != 30*365 {
		t.Error(r.Bans)
	}
}

// What nobody hears of any more can be dropped; its place is used again.
func TestForget(t *testing.T) {
	b := NewBoard(Options{})
	place := Place{Host: "h", Jail: "j"}
	for i, id := range []string{"old", "", "new"} {
		at := day.Add(time.Duration(i) * time.Hour)
		ban(b, place, id, at)
		b.End(EndFact{Place: place, ID: id, At: at.Add(10 * time.Minute), True: true})
	}
	if n := b.Forget(day.Add(90 * time.Minute)); n != 2 || b.Len() != 1 {
		t.Error(n, b.Len())
	}
	if n := b.Forget(day.Add(90 * time.Minute)); n != 0 {
		t.Error(n)
	}
	ban(b, place, "next", day)
	if got := ids(b.Rank(day.Add(time.Hour), 9).Rows); len(got) != 2 || b.n != 3 {
		t.Error(got, b.n)
	}
	total := Total(b.Returns(func(string, string) time.Time { return day.Add(3 * time.Hour) }))
	if n, events := total.ToBan.Len(); n != 3 || events != 0 {
		t.Error(n, events)
	}
}

// A board that is written and read again is the same board, to the byte.
func TestSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, 100, "a", "b", "c")
		cut := rapid.IntRange(0, len(fs)).Draw(t, "cut")
		whole, part := NewBoard(located), NewBoard(located)
		for _, f := range fs[:cut] {
			f.tell(whole)
			f.tell(part)
		}
		text := snapshot(t, part)
		loaded, err := Load(bytes.NewReader(text), located)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, snapshot(t, loaded)) {
			t.Fatal("another snapshot")
		}
		for _, f := range fs[cut:] {
			f.tell(whole)
			f.tell(loaded)
		}
		now := day.Add(60 * 24 * time.Hour)
		if diff := cmp.Diff(view(whole, now), view(loaded, now)); diff != "" {
			t.Fatal(diff)
		}
		newest := func(string, string) time.Time { return now }
		if diff := cmp.Diff(estimates(whole.Returns(newest)), estimates(loaded.Returns(newest))); diff != "" {
			t.Fatal(diff)
		}
		// No damage goes unnoticed.
		if i := rapid.IntRange(0, len(text)-1).Draw(t, "at"); true {
			damaged := bytes.Clone(text)
			damaged[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			if _, err := Load(bytes.NewReader(damaged), Options{}); err == nil {
				t.Fatal("damage unnoticed at", i)
			}
			if _, err := Load(bytes.NewReader(text[:i]), Options{}); err == nil {
				t.Fatal("loss unnoticed at", i)
			}
		}
	})
}

func snapshot(t *rapid.T, b *Board) []byte {
	var out bytes.Buffer
	if err := b.Snapshot(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A snapshot made with other constants is refused: its sums mean something else.
func TestSnapshotOfOtherConstants(t *testing.T) {
	var out bytes.Buffer
	if err := NewBoard(Options{}).Snapshot(&out); err != nil {
		t.Fatal(err)
	}
	s := DefaultScore
	s.HalfLife = time.Hour
	if _, err := Load(bytes.NewReader(out.Bytes()), Options{Score: &s}); err == nil || err.Error() != "not a snapshot of this ranking: made with other constants" {
		t.Error(err)
	}
	if _, err := Load(bytes.NewReader(out.Bytes()), Options{RepeatBans: 3}); err != nil {
		t.Error(err)
	}
}

// A frozen copy says what the board said then, whatever the board hears later.
func TestFreeze(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, hosts := NewBoard(Options{}), []string{"a", "b"}
		for _, f := range facts(t, 60, hosts...) {
			f.tell(b)
		}
		now := day.Add(40 * 24 * time.Hour)
		newest := func(string, string) time.Time { return now }
		frozen, said, returns := b.Freeze(), view(b, now), estimates(b.Returns(newest))
		for _, f := range facts(t, 60, "a", "c") {
			f.tell(b)
		}
		if diff := cmp.Diff(said, view(frozen, now)); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(returns, estimates(frozen.Returns(newest))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Hosts of the same name in two sources are two hosts.
func TestHostsOfTwoSources(t *testing.T) {
	b := NewBoard(Options{})
	ban(b, Place{Source: "eu", Host: "web-1", Jail: "sshd"}, "x", day)
	ban(b, Place{Source: "us", Host: "web-1", Jail: "sshd"}, "x", day) // not the same ban told twice
	if r, _ := b.Of("x", day); r.Bans != 2 || r.Hosts != 2 || r.Jails != 1 {
		t.Errorf("%+v", r)
	}
	for _, from := range []string{"eu", "us"} {
		b.End(EndFact{Place: Place{Source: from, Host: "web-1", Jail: "sshd"}, ID: "x", At: day.Add(time.Hour), True: true})
	}
	if got := ByJail(b.Returns(func(string, string) time.Time { return day.Add(2 * time.Hour) })); len(got) != 2 || got[0].Place.Source != "eu" || got[0].Ends != 1 {
		t.Errorf("%+v", got)
	}
}
