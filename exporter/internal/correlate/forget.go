package correlate

import (
	"cmp"
	"slices"
)

// Memory is bounded: beyond Options.MaxKeys the keys (an id in a jail of a
// host) that tell least are forgotten. The room is shared out over the hosts:
// one that has no more than its share loses nothing, whatever the others do.
// Counters stay; who was forgotten and comes back is somebody never seen.

// forgetShare is the part of all keys that makes room at once, so that looking
// for them costs little for each new key.
const forgetShare = 16

// crowd makes room where there are too many keys. It is called between events,
// by their number alone, so that the same log forgets the same keys.
func (e *Engine) crowd() {
	if e.o.MaxKeys <= 0 || e.keys <= max(e.o.MaxKeys, e.crowded) {
		return
	}
	names := e.Hosts()
	sizes := make([]int, 0, len(names))
	for _, name := range names {
		sizes = append(sizes, e.HostKeys(name))
	}
	step := max(1, e.o.MaxKeys/forgetShare)
	share := fairShare(sizes, e.o.MaxKeys-step)
	gone := 0
	for i, name := range names {
		if over := sizes[i] - share; over > 0 {
			gone += e.hosts[name].forget(over)
		}
	}
	e.keys -= gone
	e.crowded = e.keys + step // lines that wait keep their ids: do not look again at once
	if gone > 0 && e.o.Forgot != nil {
		e.o.Forgot(gone)
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

// key is an id in a jail, with what speaks against forgetting it.
type key struct {
	worth int64
	j     *jail
	t     *track
}

// forget drops up to n keys of the host, those that tell least first.
func (h *host) forget(n int) (gone int) {
	keys := h.forgettable()
	if n = min(n, len(keys)); n == 0 {
		return 0
	}
	worths := make([]int64, len(keys))
	for i := range keys {
		worths[i] = keys[i].worth
	}
	slices.Sort(worths)
	limit := worths[n-1]
	var equals []key
	replan := map[*jail]bool{}
	drop := func(k key) {
		replan[k.j] = replan[k.j] || k.t.state == active // the plan points to it too
		k.j.forget(k.t)
		gone++
	}
	for _, k := range keys {
		switch {
		case k.worth < limit:
			drop(k)
		case k.worth == limit:
			equals = append(equals, k)
		}
	}
	slices.SortFunc(equals, func(a, b key) int { return cmp.Or(cmp.Compare(a.j.name, b.j.name), cmp.Compare(a.t.id, b.t.id)) })
	for _, k := range equals[:n-gone] {
		drop(k)
	}
	for j, is := range replan {
		if is {
			j.planAll()
		}
	}
	return gone
}

// forgettable are the host's keys but those that a waiting line speaks of.
func (h *host) forgettable() []key {
	pinned, n := map[*track]bool{}, 0
	for _, j := range h.order {
		j.pin(pinned)
		n += len(j.tracks)
	}
	keys := make([]key, 0, n)
	for _, j := range h.order {
		for _, t := range j.tracks {
			if len(pinned) == 0 || !pinned[t] {
				keys = append(keys, key{j.worth(t), j, t})
			}
		}
	}
	return keys
}

// pin notes the ids that a line speaks of which waits for what follows it.
func (j *jail) pin(pinned map[*track]bool) {
	for _, u := range j.unbans {
		pinned[u.t] = true
	}
	for _, u := range j.held {
		pinned[u.t] = true
	}
	for _, b := range j.waiting {
		pinned[b.t] = true
	}
	for _, r := range j.restores {
		pinned[r.t] = true
	}
}

func (j *jail) forget(t *track) {
	t.settleRestart(func(*restart) {})
	j.setState(t, idle)
	delete(j.tracks, t.id)
}

// A true ban makes an id worth as much as one that was seen a day later, up to
// a month: who comes back is known for longer.
const (
	worthOfBan  ms = 24 * 3600 * 1000
	worthOfBans    = 30
)

// worth orders what is forgotten first: ids that are free, the stalest first;
// then those that have just failed, who may be banned next; then those lifted by
// a stop; last those whose ban is in force.
func (j *jail) worth(t *track) int64 {
	newest := max(t.started, t.base, t.since, t.lifted, t.ended)
	if n := len(t.fails); n > 0 {
		newest = max(newest, t.fails[n-1].at)
	}
	order := int64(0)
	switch {
	case t.state == active:
		order = 3
	case t.state == suspended:
		order = 2
	case j.h.clock-newest < j.findWindow():
		order = 1
	}
	return order<<56 + int64(newest+ms(min(t.bans, worthOfBans))*worthOfBan)
}
