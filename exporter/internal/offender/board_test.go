package offender

import (
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

// True bans rank; restores do not; ties go to the newer ban, then to the id.
func TestRank(t *testing.T) {
	b := NewBoard(Options{})
	sshd := Place{"web-1", "sshd"}
	for i, id := range []string{"two", "one-new", "one-old-b", "one-old-a", "two"} {
		at := day.Add(time.Hour)
		if i == 1 {
			at = day.Add(2 * time.Hour)
		}
		b.Ban(sshd, id, at)
	}
	for range 9 {
		b.Restore(sshd, "restored", day)
		b.Failure(sshd, "failed", day)
	}
	got := b.Rank(day.Add(24*time.Hour), 10)
	if diff := cmp.Diff([]string{"two", "one-new", "one-old-a", "one-old-b", "restored"}, ids(got.Rows)); diff != "" {
		t.Error(diff)
	}
	if got.Tracked != 5 || got.Repeat != 1 {
		t.Errorf("tracked %d, repeat %d", got.Tracked, got.Repeat)
	}
	if short := b.Rank(day, 2); len(short.Rows) != 2 || short.Tracked != 5 {
		t.Errorf("top 2: %+v", short)
	}
}

// Two bans make a repeat offender only within the window.
func TestRepeatWindow(t *testing.T) {
	b := NewBoard(Options{})
	b.Ban(Place{"h", "j"}, "x", day)
	b.Ban(Place{"h", "j"}, "x", day.Add(20*24*time.Hour))
	for days, want := range map[int]int{20: 1, 30: 1, 31: 0} {
		if got := b.Rank(day.Add(time.Duration(days)*24*time.Hour), 1).Repeat; got != want {
			t.Errorf("after %d days: %d, want %d", days, got, want)
		}
	}
}

// A recidive jail bans for other jails' bans: no offence more, but a mark.
func TestRecidive(t *testing.T) {
	b := NewBoard(Options{})
	b.Ban(Place{"h", "sshd"}, "x", day)
	b.Ban(Place{"h", "recidive"}, "x", day)
	r := b.Rank(day, 1).Rows[0]
	if r.Bans != 1 || !r.Escalated || r.Jails != 1 {
		t.Errorf("%+v", r)
	}
}

// The board does not depend on the order in which facts come.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type fact struct {
			place Place
			id    string
			at    time.Time
		}
		facts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fact {
			return fact{
				Place{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "host"), rapid.SampledFrom([]string{"sshd", "web", "recidive"}).Draw(t, "jail")},
				rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "id"), day.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "hour")) * time.Hour),
			}
		}), 0, 30).Draw(t, "facts")
		one, other := NewBoard(Options{}), NewBoard(Options{})
		for _, f := range facts {
			one.Ban(f.place, f.id, f.at)
		}
		for _, f := range rapid.Permutation(facts).Draw(t, "order") {
			other.Ban(f.place, f.id, f.at)
		}
		now := day.Add(1000 * time.Hour)
		if diff := cmp.Diff(one.Rank(now, 10), other.Rank(now, 10)); diff != "" {
			t.Fatal(diff)
		}
	})
}
