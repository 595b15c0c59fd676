package offender

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// The form of a snapshot: magic and version, the constants that what is kept
// depends on, places and ids in their own order, a checksum. Numbers are
// varints, so it is compact without packing; equal boards give equal bytes.
const (
	snapshotMagic   = "f2b-offenders"
	snapshotVersion = 4
	longestText     = 1 << 20
)

// ErrSnapshot is the error of a snapshot that cannot be taken over: another
// version, other constants, or damaged. The board must be built anew.
var ErrSnapshot = errors.New("not a snapshot of this ranking")

// Snapshot writes the board.
func (b *Board) Snapshot(w io.Writer) error {
	s := &writer{w: bufio.NewWriterSize(w, 1<<16)}
	s.text(snapshotMagic)
	s.uint(snapshotVersion)
	s.text(b.o.fingerprint())
	order, to := b.renumber()
	s.uint(uint64(len(order)))
	for _, name := range order {
		b.places[b.placeNo[name]].write(s)
	}
	hosts := map[uint32]uint32{noHost: noHost}
	for i, name := range order { // as they are numbered when they are read
		no := b.places[b.placeNo[name]].host
		if i == 0 || order[i-1].Source != name.Source || order[i-1].Host != name.Host {
			hosts[no] = uint32(len(hosts) - 1)
		}
	}
	b.writeCountries(s, hosts)
	entries := make([]*entry, 0, b.Len())
	b.all(func(e *entry) { entries = append(entries, e) })
	slices.SortFunc(entries, func(x, y *entry) int { return strings.Compare(x.id, y.id) })
	s.uint(uint64(len(entries)))
	a := scratch{places: to, hosts: hosts}
	for _, e := range entries {
		a.write(e, s)
	}
	s.flush()
	sum := s.sum
	s.fixed(uint64(sum))
	s.flush()
	if s.err == nil {
		s.err = s.w.Flush()
	}
	return s.err
}

// Load reads a board that was written with the same options.
func Load(r io.Reader, o Options) (*Board, error) {
	s := &reader{r: bufio.NewReaderSize(r, 1<<16)}
	b := NewBoard(o)
	if magic := s.text(); s.err == nil && magic != snapshotMagic {
		return nil, ErrSnapshot
	}
	if v := s.uint(); s.err == nil && v != snapshotVersion {
		return nil, fmt.Errorf("%w: version %d, not %d", ErrSnapshot, v, snapshotVersion)
	}
	if s.text() != b.o.fingerprint() && s.err == nil {
		return nil, fmt.Errorf("%w: made with other constants", ErrSnapshot)
	}
	for n := s.uint(); n > 0 && s.err == nil; n-- {
		p := Place{Source: s.text(), Host: s.text(), Jail: s.text()}
		if s.err == nil {
			b.places[b.place(p)].read(s)
		}
	}
	for n := s.uint(); n > 0 && s.err == nil; n-- {
		key := countryKey{host: uint32(s.uint()), country: s.text()}
		if key.host--; key.host != noHost {
			s.below(uint64(key.host), uint32(len(b.hosts)))
		}
		b.countries[key] = s.uint()
	}
	for n := s.uint(); n > 0 && s.err == nil; n-- {
		if id := s.text(); s.err == nil {
			b.get(id).read(s, uint32(len(b.places)), uint32(len(b.hosts)))
		}
	}
	sum := s.sum()
	if s.fixed() != uint64(sum) && s.err == nil {
		s.err = errors.New("its checksum is wrong")
	}
	if s.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, s.err)
	}
	return b, nil
}

func (b *Board) writeCountries(s *writer, hosts map[uint32]uint32) {
	type count struct {
		countryKey
		n uint64
	}
	var counts []count
	for key, n := range b.countries {
		counts = append(counts, count{countryKey{hosts[key.host] + 1, key.country}, n})
	}
	slices.SortFunc(counts, func(a, b count) int { return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(a.country, b.country)) })
	s.uint(uint64(len(counts)))
	for _, c := range counts {
		s.uint(uint64(c.host)) // from 1; 0 is none
		s.text(c.country)
		s.uint(c.n)
	}
}

// fingerprint names all that what is kept depends on.
func (o *Options) fingerprint() string {
	s := o.Score
	var text strings.Builder
	fmt.Fprint(&text, s.HalfLife, s.ReturnBonus, s.ReturnHalfLife, s.ManualWeight, o.keep(), o.Campaigns.Window, slices.Sorted(slices.Values(o.RecidiveJails)))
	for _, jail := range slices.Sorted(maps.Keys(s.JailWeights)) {
		fmt.Fprintf(&text, " %q:%v", jail, s.JailWeights[jail])
	}
	return text.String()
}

func (p *place) write(s *writer) {
	s.text(p.Source)
	s.text(p.Host)
	s.text(p.Jail)
	for _, n := range []uint64{p.ends, p.before, p.during, p.after, uint64(p.banned)} {
		s.uint(n)
	}
	p.toBan.write(s)
	p.toFailure.write(s)
}

func (p *place) read(s *reader) {
	p.ends, p.before, p.during, p.after, p.banned = s.uint(), s.uint(), s.uint(), s.uint(), int64(s.uint())
	p.toBan.read(s)
	p.toFailure.read(s)
}

func (sp *Spans) write(s *writer) {
	if sp.bins == nil {
		s.uint(0)
		exact := slices.Clone(sp.exact)
		slices.SortFunc(exact, func(a, b span) int {
			return cmp.Or(cmp.Compare(a.ms, b.ms), cmp.Compare(bit(a.event), bit(b.event)))
		})
		s.uint(uint64(len(exact)))
		for _, x := range exact {
			s.uint(uint64(x.ms)<<1 | bit(x.event))
		}
		return
	}
	s.uint(1)
	s.uint(uint64(len(sp.bins)))
	for _, no := range slices.Sorted(maps.Keys(sp.bins)) {
		s.int(int64(no))
		s.uint(uint64(sp.bins[no].censored))
		s.uint(uint64(sp.bins[no].events))
	}
}

func (sp *Spans) read(s *reader) {
	rough := s.uint() == 1
	if rough {
		sp.bins = map[int32]binned{}
	}
	for n := s.uint(); n > 0 && s.err == nil; n-- {
		if !rough {
			x := s.uint()
			sp.add(int64(x>>1), x&1 == 1)
			continue
		}
		no := int32(s.int())
		b := binned{uint32(s.uint()), uint32(s.uint())}
		sp.bins[no] = b
		sp.n[0] += int(b.censored)
		sp.n[1] += int(b.events)
	}
}

// scratch holds what an entry keeps by place, renumbered.
type scratch struct {
	visits []visit
	recent []stamp
	cells  []cell
	parts  []part

	places []uint32 // their numbers in the snapshot
	hosts  map[uint32]uint32
}

func (d *deeds) save(s *writer) {
	s.fixed(math.Float64bits(d.mass))
	s.int(d.first)
	s.int(d.last - d.first)
	s.int(d.ban)
	for _, n := range []uint32{d.bans, d.restores, d.failures, d.gapFailures} {
		s.uint(uint64(n))
	}
}

func (d *deeds) load(s *reader) {
	d.mass = math.Float64frombits(s.fixed())
	d.first = s.int()
	d.last = d.first + s.int()
	d.ban = s.int()
	d.bans, d.restores, d.failures, d.gapFailures = uint32(s.uint()), uint32(s.uint()), uint32(s.uint()), uint32(s.uint())
}

func (a *scratch) write(e *entry, s *writer) {
	to := a.places
	s.text(e.id)
	e.save(s)
	parts := append(a.parts[:0], e.parts...)
	a.parts = parts
	for i := range parts {
		parts[i].host = a.hosts[parts[i].host]
	}
	slices.SortFunc(parts, func(p, q part) int { return cmp.Compare(p.host, q.host) })
	s.uint(uint64(len(parts)))
	for i := range parts {
		s.uint(uint64(parts[i].host))
		parts[i].save(s)
	}
	if len(parts) == 0 {
		s.uint(uint64(a.hosts[e.host-1]))
	}
	s.uint(bit(e.escalated))
	visits := append(a.visits[:0], e.visits...)
	a.visits = visits
	for i := range visits {
		visits[i].place = to[visits[i].place]
	}
	slices.SortFunc(visits, func(a, b visit) int { return int(a.place) - int(b.place) })
	s.uint(uint64(len(visits)))
	for _, v := range visits {
		s.uint(uint64(v.place)<<2 | bit(v.open)<<1 | bit(v.waiting))
		s.int(v.ban)
		s.int(v.start - v.ban)
		s.int(v.end)
	}
	recent := append(a.recent[:0], e.recent...)
	a.recent = recent
	for i := range recent {
		recent[i].place = to[recent[i].place]
	}
	slices.SortFunc(recent, stamp.compare)
	s.uint(uint64(len(recent)))
	for _, r := range recent {
		s.int(r.at)
		s.uint(uint64(r.place))
	}
	cells := append(a.cells[:0], e.cells...)
	a.cells = cells
	for i := range cells {
		cells[i].place = to[cells[i].place]
	}
	slices.SortFunc(cells, cell.compare)
	s.uint(uint64(len(cells)))
	for _, c := range cells {
		for _, n := range []uint32{c.bucket, c.place, uint32(c.failures), uint32(c.bans), uint32(c.first), uint32(c.last - c.first)} {
			s.uint(uint64(n))
		}
	}
}

func (e *entry) read(s *reader, places, hosts uint32) {
	e.load(s)
	for n := s.uint(); n > 0 && s.err == nil; n-- {
		p := part{host: s.below(s.uint(), hosts)}
		p.load(s)
		e.parts = append(e.parts, p)
	}
	if e.parts == nil {
		e.host = s.below(s.uint(), hosts) + 1
	} else {
		e.host, e.several = e.parts[0].host+1, true
	}
	e.escalated = s.uint() == 1
	for n := s.uint(); n > 0 && s.err == nil; n-- {
		x := s.uint()
		v := visit{place: s.below(x>>2, places), open: x&2 != 0, waiting: x&1 != 0}
		v.ban = s.int()
		v.start = v.ban + s.int()
		v.end = s.int()
		e.visits = append(e.visits, v)
	}
	for n := s.uint(); n > 0 && s.err == nil; n-- {
		e.recent = append(e.recent, stamp{s.int(), s.below(s.uint(), places)})
	}
	for n := s.uint(); n > 0 && s.err == nil; n-- {
		c := cell{
			bucket: uint32(s.uint()), place: s.below(s.uint(), places), failures: uint16(s.uint()), bans: uint16(s.uint()), first: uint16(s.uint()),
		}
		c.last = c.first + uint16(s.uint())
		e.cells = append(e.cells, c)
	}
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// writer writes numbers and texts, and sums up what it wrote.
type writer struct {
	w   *bufio.Writer
	buf []byte
	sum uint32
	err error
}

func (s *writer) uint(n uint64) { s.flushed(binary.AppendUvarint(s.buf, n)) }
func (s *writer) int(n int64)   { s.flushed(binary.AppendVarint(s.buf, n)) }
func (s *writer) fixed(n uint64) {
	s.flushed(binary.LittleEndian.AppendUint64(s.buf, n))
}

func (s *writer) text(t string) {
	if len(t) > longestText && s.err == nil {
		s.err = fmt.Errorf("a text of %d bytes is too long for a snapshot", len(t))
	}
	s.uint(uint64(len(t)))
	s.flushed(append(s.buf, t...))
}

func (s *writer) flushed(buf []byte) {
	s.buf = buf
	if len(buf) >= 1<<12 {
		s.flush()
	}
}

func (s *writer) flush() {
	if s.err == nil {
		s.sum = crc32.Update(s.sum, crc32.IEEETable, s.buf)
		_, s.err = s.w.Write(s.buf)
	}
	s.buf = s.buf[:0]
}

// reader reads what a writer wrote. After an error all it gives is zero.
type reader struct {
	r    *bufio.Reader
	seen []byte // not summed up yet
	buf  []byte
	crc  uint32
	err  error
}

// ReadByte makes the reader one of varints.
func (s *reader) ReadByte() (byte, error) {
	c, err := s.r.ReadByte()
	if err == nil {
		s.note(c)
	}
	return c, err
}

func (s *reader) note(c ...byte) {
	if s.seen = append(s.seen, c...); len(s.seen) >= 1<<12 {
		s.sum()
	}
}

func (s *reader) sum() uint32 {
	s.crc = crc32.Update(s.crc, crc32.IEEETable, s.seen)
	s.seen = s.seen[:0]
	return s.crc
}

func (s *reader) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if s.err == nil {
		s.err = err
	}
}

func (s *reader) uint() uint64 {
	if s.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(s)
	if err != nil {
		s.fail(err)
		return 0
	}
	return n
}

func (s *reader) int() int64 {
	if s.err != nil {
		return 0
	}
	n, err := binary.ReadVarint(s)
	if err != nil {
		s.fail(err)
		return 0
	}
	return n
}

func (s *reader) fixed() uint64 {
	if s.err != nil {
		return 0
	}
	var b [8]byte
	if _, err := io.ReadFull(s.r, b[:]); err != nil {
		s.fail(err)
		return 0
	}
	s.note(b[:]...)
	return binary.LittleEndian.Uint64(b[:])
}

func (s *reader) text() string {
	n := s.uint()
	if n > longestText {
		s.fail(fmt.Errorf("a text of %d bytes", n))
	}
	if s.err != nil || n == 0 {
		return ""
	}
	s.buf = slices.Grow(s.buf[:0], int(n))[:n]
	if _, err := io.ReadFull(s.r, s.buf); err != nil {
		s.fail(err)
		return ""
	}
	s.note(s.buf...)
	return string(s.buf)
}

// below reads the number of a place.
func (s *reader) below(n uint64, bound uint32) uint32 {
	if n >= uint64(bound) {
		s.fail(fmt.Errorf("place %d of %d", n, bound))
		return 0
	}
	return uint32(n)
}
