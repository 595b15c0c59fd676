package fail2ban

import (
	"encoding/binary"
	"errors"
	"time"
)

// stateVersion begins a saved state; one of another version is refused, and
// the parser learns anew.
const stateVersion = 2

var errState = errors.New("fail2ban: no state of a parser")

// AppendState appends all that the parser has learnt of its stream: the zone,
// the last time, the form, the jails' names. A new parser with the same options
// that loads it reads on as this one would.
func (p *Parser) AppendState(b []byte) []byte {
	b = append(b, stateVersion)
	z := &p.zone
	seen := z.seen
	if size := len(z.ring); seen > size { // only where the ring goes on matters then
		seen = size + seen%size
	}
	b = binary.AppendUvarint(b, uint64(seen))
	for _, q := range z.ring[:min(z.seen, len(z.ring))] {
		b = append(b, byte(q))
	}
	b = append(b, byte(z.quarter), byte(z.turn.quarter), z.turn.lines, bit(z.crisp))
	for _, v := range []int64{z.turn.wall, z.turn.at, z.turn.since} {
		b = binary.AppendVarint(b, v)
	}
	b = appendTime(b, z.last)
	b = append(b, byte(p.lock.held), byte(p.lock.weaker))
	b = binary.AppendUvarint(b, uint64(p.lock.count))
	b = binary.AppendVarint(b, p.lock.since)
	for _, list := range [][]string{p.learnt.odd, p.learnt.plain} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, name := range list {
			b = binary.AppendUvarint(b, uint64(len(name)))
			b = append(b, name...)
		}
	}
	return b
}

// LoadState takes what AppendState wrote. On an error the parser stays as it
// is.
func (p *Parser) LoadState(b []byte) error {
	r := stateReader{b: b}
	if r.byte() != stateVersion {
		return errState
	}
	z := zone{fixed: p.zone.fixed, newest: p.zone.newest}
	z.seen = int(r.uint(uint64(2 * len(z.ring))))
	for i := range min(z.seen, len(z.ring)) {
		z.ring[i] = int8(r.byte())
	}
	z.quarter, z.turn.quarter, z.turn.lines = int8(r.byte()), int8(r.byte()), min(r.byte(), turnLines)
	z.crisp = r.byte() == 1
	z.turn.wall, z.turn.at, z.turn.since = r.int(), r.int(), r.int()
	if z.last = r.time(); !plausible(z.last) { // zero, or damaged: years are taken from it
		z.last = time.Time{}
	}
	l := lock{held: form(r.byte()), weaker: form(r.byte()), count: int(r.uint(lockLines)), since: r.int()}
	var n names
	for range 2 {
		for range r.uint(maxNames) {
			n.add(string(r.bytes(r.uint(MaxJail))))
		}
	}
	n.recent = ""
	if r.bad || len(r.b) > 0 || l.held >= forms || l.weaker >= forms || z.quarter < -maxQuarters || z.quarter > maxQuarters {
		return errState
	}
	p.zone, p.lock, p.learnt = z, l, n
	return nil
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	b = binary.AppendVarint(append(b, 1), t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

// stateReader reads a saved state; once something was missing it is bad and
// gives zeros.
type stateReader struct {
	b   []byte
	bad bool
}

func (r *stateReader) byte() byte {
	if b := r.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *stateReader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *stateReader) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *stateReader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *stateReader) time() time.Time {
	if r.byte() == 0 {
		return time.Time{}
	}
	s := r.int()
	return time.Unix(s, int64(r.uint(1e9))).UTC()
}
