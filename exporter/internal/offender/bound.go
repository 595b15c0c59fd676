package offender

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Memory is bounded as it is in the correlation: beyond Options.MaxIDs the ids
// that tell least are forgotten. The room is shared out over the hosts, an id
// counting for the one where it was last seen: a host that has no more than its
// share loses nothing, whatever the others do.

// boundShare is the part of all ids that makes room at once, so that looking
// for them costs little for each new id.
const boundShare = 16

// bound makes room where there are too many ids. It is called between facts, by
// their number alone, so that the same facts forget the same ids.
func (b *Board) bound() {
	if b.o.MaxIDs <= 0 || b.Len() <= b.o.MaxIDs {
		return
	}
	homes, newest := make([][]uint32, len(b.hosts)+1), int64(0)
	for i := range b.n {
		if e := b.at(i); e.used {
			home := b.home(e)
			homes[home] = append(homes[home], i)
			newest = max(newest, e.last)
		}
	}
	sizes := make([]int, len(homes))
	for i, ids := range homes {
		sizes[i] = len(ids)
	}
	share := fairShare(sizes, b.o.MaxIDs-max(1, b.o.MaxIDs/boundShare))
	for _, ids := range homes {
		if over := len(ids) - share; over > 0 {
			b.forgetWorst(ids, over, newest-justNow)
		}
	}
}

// fairShare is how many each may keep at most so that all keep no more than
// room: who has less keeps it all, and what it leaves is shared by the others.
func fairShare(sizes []int, room int) int {
	sizes = slices.Sorted(slices.Values(sizes))
	for i, n := range sizes {
		left := len(sizes) - i
		if n*left > room {
			return room / left
		}
		room -= n
	}
	return room
}

// home numbers the host where an id was last seen; the last number stands for
// none.
func (b *Board) home(e *entry) uint32 {
	if n := len(e.cells); n > 0 {
		return b.places[e.cells[n-1].place].host
	}
	if len(e.visits) > 0 {
		return b.places[e.visits[0].place].host
	}
	return uint32(len(b.hosts))
}

// justNow is how long who was seen is kept before who tells more: he may be
// banned next. In milliseconds.
const justNow = 10 * 60 * 1000

// forgetWorst drops n of some ids, those that tell least first.
func (b *Board) forgetWorst(ids []uint32, n int, recent int64) {
	worthOf := make([]int64, len(ids))
	for i, no := range ids {
		worthOf[i] = b.worth(b.at(no), recent)
	}
	worths := slices.Sorted(slices.Values(worthOf))
	limit := worths[n-1]
	var equals []uint32
	for i, no := range ids {
		switch {
		case worthOf[i] < limit:
			b.drop(no, b.at(no).last)
			n--
		case worthOf[i] == limit:
			equals = append(equals, no)
		}
	}
	slices.SortFunc(equals, func(i, k uint32) int { return strings.Compare(b.at(i).id, b.at(k).id) })
	for _, no := range equals[:n] {
		b.drop(no, b.at(no).last)
	}
}

// drop forgets an id. What ran since the end of its last ban is known up to a
// time, and no longer.
func (b *Board) drop(no uint32, at int64) {
	e := b.at(no)
	for k := range e.visits {
		b.places[e.visits[k].place].censor(&e.visits[k], at)
	}
	b.index.delete(e.id, no)
	*e = entry{}
	b.last = nil
	b.free = append(b.free, no)
}

// worth orders what is forgotten first: who is neither banned nor was seen just
// now before who is, and of these by when they were last seen, or by when less
// is left of their bans than one would weigh, whichever is later.
func (b *Board) worth(e *entry, recent int64) int64 {
	at := e.last
	if e.ban != 0 {
		stays := math.Log2(1+e.mass) * float64(b.o.Score.HalfLife/time.Second)
		at = max(at, e.ban+int64(stays)*1000)
	}
	switch {
	case slices.ContainsFunc(e.visits, func(v visit) bool { return v.start > v.end }):
		at += 1 << 57
	case e.last > recent:
		at += 1 << 56
	}
	return at
}
