package offender

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Beyond the bound the stalest ids of the host that has too many are forgotten:
// not those of another, not who comes back, and not who is banned.
func TestBound(t *testing.T) {
	const bound = 320
	few, all := NewBoard(Options{MaxIDs: bound}), NewBoard(Options{})
	noisy, quiet := Place{Host: "noisy", Jail: "sshd"}, Place{Host: "quiet", Jail: "sshd"}
	for _, b := range []*Board{few, all} {
		at := day
		once := func(p Place, id string) {
			at = at.Add(time.Minute)
			b.Failure(p, id, at)
			ban(b, p, id, at)
			b.End(EndFact{Place: p, ID: id, At: at.Add(10 * time.Second), True: true})
		}
		for range 5 {
			once(noisy, "comes back")
		}
		ban(b, noisy, "stays banned", at)
		for i := range 2000 {
			once(noisy, fmt.Sprint("noisy ", i))
			if i%200 == 0 {
				once(quiet, fmt.Sprint("quiet ", i))
			}
		}
	}
	if n := few.Len(); n > bound+1 || n < bound*9/10 {
		t.Errorf("%d ids are kept", n)
	}
	now := day.Add(48 * time.Hour)
	known := []string{"comes back", "stays banned", "noisy 1999"}
	for i := range 10 {
		known = append(known, fmt.Sprint("quiet ", 200*i))
	}
	for _, id := range known {
		got, ok := few.Of(id, now)
		want, _ := all.Of(id, now)
		if !ok {
			t.Errorf("%q was forgotten", id)
		} else if diff := cmp.Diff(want.Score, got.Score); diff != "" {
			t.Errorf("%q: %s", id, diff)
		}
	}
	if _, ok := few.Of("noisy 3", now); ok {
		t.Error("one of the oldest is kept")
	}
	kaplanMeier := func(b *Board) (int, int) {
		total := Total(b.Returns(func(string, string) time.Time { return now }))
		return total.ToBan.Len()
	}
	n, events := kaplanMeier(few)
	wantN, wantEvents := kaplanMeier(all)
	if n != wantN || events != wantEvents {
		t.Errorf("%d ends and %d returns, not %d and %d", n, events, wantN, wantEvents)
	}
}

// The same facts forget the same ids, also through a snapshot.
func TestBoundIsTheSameThroughASnapshot(t *testing.T) {
	o := Options{MaxIDs: 100}
	through, b := NewBoard(o), NewBoard(o)
	for i := range 1000 {
		p := Place{Host: fmt.Sprint("host-", i%3), Jail: "sshd"}
		for _, b := range []*Board{through, b} {
			ban(b, p, fmt.Sprint("id ", i*7%400), day.Add(time.Duration(i)*time.Minute))
		}
		if i%97 == 0 {
			var text bytes.Buffer
			if err := b.Snapshot(&text); err != nil {
				t.Fatal(err)
			}
			loaded, err := Load(&text, o)
			if err != nil {
				t.Fatal(err)
			}
			b = loaded
		}
	}
	var want, got bytes.Buffer
	if err := through.Snapshot(&want); err != nil {
		t.Fatal(err)
	}
	if err := b.Snapshot(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want.Bytes(), got.Bytes()) {
		t.Error("they differ")
	}
}
