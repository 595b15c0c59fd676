package offender

// index finds an id's entry. Short ids, such as all IPv4 addresses, are keys by
// value: finding one touches no memory but the map's, and the garbage collector
// has nothing to follow in it.
type index struct {
	short map[shortID]uint32
	long  map[string]uint32
}

// shortID is an id of up to 15 bytes, with its length in the last.
type shortID [16]byte

func newIndex() index { return index{short: map[shortID]uint32{}, long: map[string]uint32{}} }

func short(id string) (k shortID, ok bool) {
	if len(id) >= len(k) {
		return k, false
	}
	copy(k[:], id)
	k[len(k)-1] = byte(len(id))
	return k, true
}

func (x *index) get(id string) (uint32, bool) {
	if k, ok := short(id); ok {
		i, ok := x.short[k]
		return i, ok
	}
	i, ok := x.long[id]
	return i, ok
}

func (x *index) set(id string, i uint32) {
	if k, ok := short(id); ok {
		x.short[k] = i
	} else {
		x.long[id] = i
	}
}

func (x *index) delete(id string) {
	if k, ok := short(id); ok {
		delete(x.short, k)
	} else {
		delete(x.long, id)
	}
}

func (x *index) len() int { return len(x.short) + len(x.long) }
