package offender

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// Ids are found after whatever others came and went: short, long, and the
// empty one.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b, is := NewBoard(Options{}), map[string]int{}
	name := func(i int) string {
		if i == 0 {
			return ""
		}
		return strings.Repeat("x", i%20) + fmt.Sprint(i)
	}
	for round := range 40 {
		at := day.Add(time.Duration(round) * time.Hour)
		for range 300 {
			id := name(r.IntN(500))
			b.Failure(Place{Host: "h", Jail: "j"}, id, at)
			is[id] = round
		}
		before := round - r.IntN(3)
		gone := 0
		for id, last := range is {
			if last < before {
				delete(is, id)
				gone++
			}
		}
		if got := b.Forget(day.Add(time.Duration(before) * time.Hour)); got != gone || b.Len() != len(is) {
			t.Fatalf("round %d: %d forgotten, not %d; %d left, not %d", round, got, gone, b.Len(), len(is))
		}
		for i := range 500 {
			_, got := b.lookup(name(i))
			if _, want := is[name(i)]; got != want {
				t.Fatalf("round %d: %q found: %v, want %v", round, name(i), got, want)
			}
		}
	}
	if _, ok := b.Freeze().lookup(""); ok {
		t.Error("a frozen copy knows an id")
	}
}
