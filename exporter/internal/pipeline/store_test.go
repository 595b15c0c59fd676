package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// kept is a daemon of one source with a state file, in a bubble of time.
type kept struct {
	path  string
	lines []Line
	begin time.Time

	said   map[string]int // what the sink holds, as Loki would: the same twice is one
	upTo   time.Time
	counts map[string]int
	last   Status
	board  *Board
	recent *Recent
	loaded error
}

func (k *kept) Name() string { return "kept" }

func (k *kept) Publish(_ context.Context, _ string, upTo time.Time, fs []correlate.Finding, ranking []offender.Finding) {
	for _, x := range fs {
		k.said[fmt.Sprintf("%s %s %s %s %s %+v %+v %+v %+v %+v", x.Kind, x.Time, x.Host, x.Jail, x.ID, x.Ban, x.Restore, x.Lost, x.Reoffence, x.Restart)]++
	}
	for _, x := range ranking {
		k.said[fmt.Sprintf("%+v", x)]++
	}
	k.upTo = upTo
}

func (k *kept) Taken(string) time.Time { return k.upTo }

func (k *kept) Flush(context.Context) error { return nil }

// run starts the daemon and stops it after a time.
func (k *kept) run(t *testing.T, fingerprint string, length time.Duration) {
	k.counts, k.recent = map[string]int{}, NewRecent(7)
	k.board = NewBoard(offender.Options{})
	own := k.board.For("s")
	own.Tell(10)
	st := &Store{Path: k.path, Fingerprint: fingerprint, Every: 10 * time.Second, Saved: func(result string, _ time.Duration, err error) {
		if err != nil {
			t.Error(result, err)
		}
	}}
	o := FeedOptions{
		Correlate: correlate.Options{Open: true}, Zone: func(string) *time.Location { return time.UTC }, Board: own,
		Count: func(r string) { k.counts[r]++ },
	}
	saved, err := st.Load(o, offender.Options{})
	k.loaded = err
	feed := NewFeed(o)
	if err == nil {
		feed = saved.Feed
		for r, n := range saved.Counts {
			k.counts[r] += int(n)
		}
	}
	w := NewFollower(FollowOptions{
		Name: "s", Lookback: time.Since(k.begin) + time.Minute, Lag: time.Second, Poll: 3 * time.Second, MaxLateness: 2 * time.Minute,
		Window: 20 * time.Second, Store: st, Resume: saved, Recent: k.recent,
	}, &tape{lines: k.lines}, feed, []Sink{k}, quiet(), func(s Status) {
		if s.CaughtUp {
			k.last = s
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	if err := w.Run(ctx); err != nil {
		t.Error(err)
	}
}

// outcome is what an undisturbed run and one with kills must have in common.
func (k *kept) outcome() map[string]any {
	k.last.Report.At = time.Time{} // the last poll's
	return map[string]any{
		"said": slices.Sorted(maps.Keys(k.said)), "counts": k.counts, "report": fmt.Sprintf("%+v", k.last.Report),
		"ranking": fmt.Sprintf("%+v", k.board.Rank(k.begin, 100).Rows),
		"recent":  fmt.Sprintf("%+v", k.recent.Restores()),
	}
}

// A program killed at any moment, whose state is then that of its last save,
// comes to the same totals, findings and ranking as one that was left alone:
// nothing is lost, nothing counted twice.
func TestKillsDoNotMatter(t *testing.T) {
	dir := t.TempDir()
	const length = 8 * time.Minute
	var want map[string]any
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			k := &kept{path: filepath.Join(dir, fmt.Sprint("state", seed)), begin: time.Now(), said: map[string]int{}}
			k.lines = shifted(recorded(t, "soak"), k.begin.Add(-time.Minute))
			if seed == 0 {
				k.run(t, "a", length)
				want = k.outcome()
				return
			}
			r := rand.New(rand.NewPCG(seed, 2))
			loads := 0
			for time.Since(k.begin) < 3*time.Minute {
				k.run(t, "a", time.Duration(1+r.IntN(15_000))*time.Millisecond)
				before, _ := os.ReadFile(k.path)
				k.run(t, "a", time.Duration(1+r.IntN(40_000))*time.Millisecond)
				if k.loaded == nil {
					loads++
				}
				if before != nil && r.IntN(2) == 0 { // killed: what it saved at its end is not there
					if err := os.WriteFile(k.path, before, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			k.run(t, "a", length-time.Since(k.begin))
			if k.loaded != nil || loads == 0 {
				t.Errorf("%d loads: %v", loads, k.loaded)
			}
			if diff := cmp.Diff(want, k.outcome()); diff != "" {
				t.Errorf("seed %d: %s", seed, diff)
			}
		})
	}
}

// A state that was deleted, damaged, cut or made with other settings is not
// gone on from, and says so; what is read anew comes to the same.
func TestStatesNotGoneOnFrom(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	var want map[string]any
	synctest.Test(t, func(t *testing.T) {
		k := &kept{path: path, begin: time.Now(), said: map[string]int{}}
		k.lines = shifted(recorded(t, "soak"), k.begin.Add(-5*time.Minute))
		k.run(t, "a", 5*time.Minute)
		want = k.outcome()
	})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if rest, _ := filepath.Glob(path + "?*"); len(rest) > 0 {
		t.Errorf("left behind: %q", rest)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int) []byte {
		b := slices.Clone(whole)
		b[at] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		state []byte
		print string
		want  error
	}{
		"deleted": {nil, "a", ErrNoState},
		"empty":   {[]byte{}, "a", ErrDamagedState},
		"other":   {[]byte(strings.Repeat("no state at all ", 10)), "a", ErrDamagedState},
		"cut":     {whole[:len(whole)/2], "a", ErrDamagedState},
		"flipped": {changed(len(whole) / 2), "a", ErrDamagedState},
		"version": {changed(len(stateMagic) - 1), "a", ErrDamagedState}, // the sum is wrong too
		"foreign": {whole, "b", ErrForeignState},
		"whole":   {whole, "a", nil},
	} {
		t.Run(name, func(t *testing.T) {
			os.Remove(path)
			if c.state != nil {
				if err := os.WriteFile(path, c.state, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				k := &kept{path: path, begin: time.Now(), said: map[string]int{}}
				k.lines = shifted(recorded(t, "soak"), k.begin.Add(-5*time.Minute))
				k.run(t, c.print, 5*time.Minute)
				if !errors.Is(k.loaded, c.want) {
					t.Errorf("%v, not %v", k.loaded, c.want)
				}
				if c.want != nil {
					if diff := cmp.Diff(want, k.outcome()); diff != "" {
						t.Error(diff)
					}
				} else if len(k.said) > 0 {
					t.Errorf("%d findings said again", len(k.said))
				}
			})
		})
	}
}

// A cut anywhere is an error, never a panic.
func TestStateOfAnyLength(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	synctest.Test(t, func(t *testing.T) {
		k := &kept{path: path, begin: time.Now(), said: map[string]int{}}
		k.lines = shifted(recorded(t, "crash-kill9"), k.begin.Add(-time.Minute))
		k.run(t, "a", time.Minute)
	})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole); n += 1 + len(whole)/300 {
		if _, err := LoadState(whole[:n], "a", FeedOptions{Board: NewBoard(offender.Options{})}, offender.Options{}); err == nil {
			t.Fatalf("%d of %d bytes were taken for a state", n, len(whole))
		}
	}
}
