package fail2ban

import (
	"slices"
	"time"
)

// zone turns local stamps into instants.
//
// fail2ban writes local time without a zone. Where the zone is not configured
// it is inferred as the median of (entry time - stamp) over the last entries,
// rounded to a quarter of an hour: shippers that stamp at ingestion are seconds
// late. Once there were lines that near to a zone only such count, so that
// neither a line nor a backlog that was shipped hours late moves the median.
type zone struct {
	fixed  *time.Location
	newest time.Time

	// the inferred offset: a ring of the last differences in quarter hours
	ring    [63]int8
	seen    int
	quarter int8
	crisp   bool // lines came within turnSlack of a zone: others do not count
	turn    turn

	// one minute remembered: most lines fall into the last one
	minute [16]byte
	base   int64
	last   time.Time
}

// turn watches for the clock being set an hour forward or back, or half an
// hour: the median would take half its entries to notice.
type turn struct {
	wall, at int64 // Unix seconds of the last entry's stamp, as if it were UTC, and of its time
	quarter  int8  // where the clock may have turned to
	lines    uint8 // that agree with that
	since    int64 // the first of these
}

const (
	turnSlack = 90 * time.Second // how near to whole quarters a prompt shipper's lines are
	turnLines = 3                // lines that prove a turn back,
	turnSpan  = 60               // over so many seconds: a backlog is shipped at once
)

// maxQuarters is the largest offset of a zone, 16 hours.
const maxQuarters = 64

// stamp reads "YYYY-MM-DD HH:MM:SS,mmm".
func (z *zone) stamp(b []byte, at time.Time) (time.Time, bool) {
	ms, ok := digits(b[stampLen+1:], 3)
	if !ok {
		return time.Time{}, false
	}
	near := at
	if at.IsZero() {
		near = z.last
	} else if z.fixed == nil {
		z.learnStamp(b[:stampLen], at)
	}
	sec, ok := z.seconds(b, near)
	if !ok {
		return time.Time{}, false
	}
	t := time.Unix(sec, int64(ms)*1e6).UTC()
	z.last = t
	return t, true
}

// inside reads a stamp of a message, which stands near the line's own time.
func (z *zone) inside(b []byte, near time.Time) (time.Time, bool) {
	sec, ok := z.seconds(b, near)
	if !ok {
		return time.Time{}, false
	}
	return time.Unix(sec, 0).UTC(), true
}

// seconds gives the Unix seconds of a local stamp.
func (z *zone) seconds(b []byte, near time.Time) (int64, bool) {
	s, ok := digits(b[17:], 2)
	if !ok || s > 60 || b[16] != ':' {
		return 0, false
	}
	if string(b[:16]) == string(z.minute[:]) {
		return z.base + int64(s), true
	}
	wall, ok := wallMinute(b)
	if !ok {
		return 0, false
	}
	base, twice := z.instant(wall, near)
	if !twice { // a minute that comes twice is decided anew each time
		copy(z.minute[:], b)
		z.base = base
	}
	return base + int64(s), true
}

// instant finds the instant of a wall clock's minute. In the hour that comes
// twice at the end of daylight saving it takes the one nearer to the entry's
// time or, in a file, the one that does not go back behind the last line.
func (z *zone) instant(wall time.Time, near time.Time) (sec int64, twice bool) {
	loc := z.fixed
	if loc == nil {
		return wall.Unix() - int64(z.quarter)*900, false
	}
	y, mo, d := wall.Date()
	t := time.Date(y, mo, d, wall.Hour(), wall.Minute(), 0, 0, loc)
	first, second := t, t
	for _, other := range []time.Time{t.Add(-time.Hour), t.Add(time.Hour), t.Add(-30 * time.Minute), t.Add(30 * time.Minute)} {
		if !sameWall(t, other) {
			continue
		}
		if other.Before(t) {
			first = other
		} else {
			second = other
		}
	}
	if first.Equal(second) {
		return t.Unix(), false
	}
	if near.IsZero() {
		return first.Unix(), true
	}
	if near.Sub(first).Abs() <= second.Sub(near).Abs() {
		return first.Unix(), true
	}
	return second.Unix(), true
}

func sameWall(a, b time.Time) bool {
	return a.Hour() == b.Hour() && a.Minute() == b.Minute() && a.Day() == b.Day()
}

// learn takes one entry's difference into the median. wall is the stamp read
// as if it were UTC.
func (z *zone) learn(wall, at time.Time) {
	diff := wall.Sub(at)
	q := int64(diff.Round(15*time.Minute) / (15 * time.Minute))
	if q < -maxQuarters || q > maxQuarters { // no zone, an old line shipped late
		return
	}
	crisp := (diff - time.Duration(q)*15*time.Minute).Abs() <= turnSlack
	switch {
	case crisp && !z.crisp:
		z.crisp, z.seen = true, 0
	case z.crisp && !crisp: // of a backlog, most likely: its lines are late by any time
		return
	}
	if z.crisp && z.seen > 0 && z.turned(int8(q), wall.Unix(), at.Unix()) {
		for i := range z.ring {
			z.ring[i] = int8(q)
		}
		z.seen = len(z.ring)
	}
	z.turn.wall, z.turn.at = wall.Unix(), at.Unix()
	z.ring[z.seen%len(z.ring)] = int8(q)
	z.seen++
	if int8(q) == z.quarter && z.seen > 1 {
		return
	}
	if m := z.median(); m != z.quarter {
		z.quarter = m
		z.minute = [16]byte{}
	}
}

// turned tells whether a line shows that daylight saving began or ended. A
// stamp ahead of its entry was shipped late by nobody. One an hour behind may
// have been: there the stamps must have gone back while time went on, or several
// lines must agree for a while.
func (z *zone) turned(q int8, wall, at int64) bool {
	shift := int(q) - int(z.quarter)
	switch {
	case shift == 0:
		z.turn.lines = 0
		return false
	case shift != 4 && shift != -4 && shift != 2 && shift != -2:
		return false
	case shift > 0, wall < z.turn.wall && at >= z.turn.at:
		return true
	}
	if z.turn.lines == 0 || z.turn.quarter != q {
		z.turn.quarter, z.turn.lines, z.turn.since = q, 0, at
	}
	z.turn.lines++
	if z.turn.lines < turnLines || at-z.turn.since < turnSpan {
		z.turn.lines = min(z.turn.lines, turnLines)
		return false
	}
	z.turn.lines = 0
	return true
}

func (z *zone) learnStamp(b []byte, at time.Time) {
	if wall, ok := wallMinute(b); ok {
		s, _ := digits(b[17:], 2)
		z.learn(wall.Add(time.Duration(s)*time.Second), at)
	}
}

func (z *zone) median() int8 {
	ring := z.ring
	n := min(z.seen, len(ring))
	slices.Sort(ring[:n])
	return ring[n/2]
}

// wallMinute reads "YYYY-MM-DD HH:MM" as if it were UTC.
func wallMinute(b []byte) (time.Time, bool) {
	y, ok1 := digits(b, 4)
	mo, ok2 := digits(b[5:], 2)
	d, ok3 := digits(b[8:], 2)
	h, ok4 := digits(b[11:], 2)
	mi, ok5 := digits(b[14:], 2)
	ok := ok1 && ok2 && ok3 && ok4 && ok5 && b[4] == '-' && b[7] == '-' && b[13] == ':'
	if !ok || y < 1980 || mo < 1 || mo > 12 || d < 1 || d > 31 || h > 23 || mi > 59 {
		return time.Time{}, false
	}
	return time.Date(y, time.Month(mo), d, h, mi, 0, 0, time.UTC), true
}

// traditional reads syslog's "Nov 22 21:16:56".
func (z *zone) traditional(b []byte, at time.Time) (time.Time, bool) {
	mo := monthOf(b[:3])
	d, ok1 := digits(b[4:], 2)
	if b[4] == ' ' {
		d, ok1 = digits(b[5:], 1)
	}
	h, ok2 := digits(b[7:], 2)
	mi, ok3 := digits(b[10:], 2)
	s, ok4 := digits(b[13:], 2)
	if mo == 0 || !ok1 || !ok2 || !ok3 || !ok4 || d > 31 || h > 23 || mi > 59 || s > 60 {
		return time.Time{}, false
	}
	if !at.IsZero() {
		return at, true
	}
	loc := z.fixed
	if loc == nil {
		loc = time.UTC
	}
	t := time.Date(z.yearOf(mo), mo, d, h, mi, s, 0, loc).UTC()
	if z.last.IsZero() && !z.newest.IsZero() && t.After(z.newest.Add(24*time.Hour)) {
		t = time.Date(t.Year()-1, mo, d, h, mi, s, 0, loc).UTC()
	}
	z.last = t
	return t, true
}

// yearOf is the year of a traditional stamp: that of the newest time the file
// can have and, from then on, time runs forward over new year's eve.
func (z *zone) yearOf(mo time.Month) int {
	if z.last.IsZero() {
		if z.newest.IsZero() {
			return 1970
		}
		return z.newest.Year()
	}
	y := z.last.Year()
	if mo == time.January && z.last.Month() == time.December {
		y++
	}
	return y
}

func monthOf(b []byte) time.Month {
	for m := time.January; m <= time.December; m++ {
		if name := m.String()[:3]; name == string(b) {
			return m
		}
	}
	return 0
}

// isoTime reads RFC 3339 and journalctl's "+0000".
func isoTime(b []byte) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999Z0700"} {
		if t, err := time.Parse(layout, alias(b)); err == nil {
			t = t.UTC()
			return t, plausible(t)
		}
	}
	return time.Time{}, false
}

// plausible tells a time that a log may bear from a damaged stamp.
func plausible(t time.Time) bool {
	y := t.Year()
	return y >= 1970 && y <= 9999
}

// digits reads exactly n digits.
func digits(b []byte, n int) (int, bool) {
	if len(b) < n {
		return 0, false
	}
	v := 0
	for _, c := range b[:n] {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return v, true
}

// Offset is the zone that the entries' times told, as its distance from UTC;
// not ok while nothing has told it.
func (p *Parser) Offset() (offset time.Duration, ok bool) {
	z := &p.zone
	if z.fixed != nil || z.seen == 0 {
		return 0, false
	}
	return time.Duration(z.quarter) * 15 * time.Minute, true
}
