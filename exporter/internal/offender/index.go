package offender

import "hash/maphash"

// index finds an id's entry: a table of numbers and hashes, so small that
// finding one seldom touches memory but here and the entry itself, and the
// garbage collector has nothing to follow in it.
type index struct {
	slots []uint64 // the hash above the number and 1; 0 is free. A power of two of them
	n     int
	seed  maphash.Seed
}

// shortID is an id of up to 15 bytes, such as all IPv4 addresses, with its
// length and 1 in the last. Of a longer one it is zero.
type shortID [16]byte

func short(id string) (k shortID, ok bool) {
	if len(id) >= len(k) {
		return k, false
	}
	copy(k[:], id)
	k[len(k)-1] = byte(len(id) + 1)
	return k, true
}

func newIndex() index { return index{slots: make([]uint64, 64), seed: maphash.MakeSeed()} }

func (x *index) hash(id string) uint32 { return uint32(maphash.String(x.seed, id)) }

// lookup finds the number of an id's entry.
func (b *Board) lookup(id string) (uint32, bool) {
	x := &b.index
	k, isShort := short(id)
	h := x.hash(id)
	mask := uint32(len(x.slots) - 1)
	for i := h & mask; x.slots[i] != 0; i = (i + 1) & mask {
		if uint32(x.slots[i]>>32) != h {
			continue
		}
		no := uint32(x.slots[i]) - 1
		if e := b.at(no); isShort && e.key == k || !isShort && e.id == id {
			return no, true
		}
	}
	return 0, false
}

// set notes the number of an id that is not there.
func (x *index) set(id string, no uint32) {
	if x.n++; 4*x.n > 3*len(x.slots) {
		old := x.slots
		x.slots = make([]uint64, 2*len(old))
		for _, s := range old {
			if s != 0 {
				x.put(s)
			}
		}
	}
	x.put(uint64(x.hash(id))<<32 | uint64(no+1))
}

func (x *index) put(s uint64) {
	mask := uint32(len(x.slots) - 1)
	i := uint32(s>>32) & mask
	for x.slots[i] != 0 {
		i = (i + 1) & mask
	}
	x.slots[i] = s
}

// delete takes out the number of an id that is there, and moves those up that
// stood behind it because its place was taken.
func (x *index) delete(id string, no uint32) {
	mask := uint32(len(x.slots) - 1)
	h := x.hash(id)
	i := h & mask
	for x.slots[i] != uint64(h)<<32|uint64(no+1) {
		i = (i + 1) & mask
	}
	for k := (i + 1) & mask; x.slots[k] != 0; k = (k + 1) & mask {
		if home := uint32(x.slots[k]>>32) & mask; (k-home)&mask >= (k-i)&mask {
			x.slots[i] = x.slots[k]
			i = k
		}
	}
	x.slots[i] = 0
	x.n--
}
