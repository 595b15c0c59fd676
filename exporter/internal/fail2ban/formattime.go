package fail2ban

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// timeFormat is how a user's format writes its stamps.
type timeFormat struct {
	kind   timeKind
	layout string // of Go's time package, for timeLayout
	zoned  bool   // the layout tells the zone
}

type timeKind uint8

const (
	timeAuto timeKind = iota
	timeLayout
	timeUnix
	timeUnixMS
	timeUnixUS
	timeUnixNS
)

// timeNames are the names that Promtail's timestamp stage knows, in lower case
// and without "_", and our own.
var timeNames = map[string]timeFormat{
	"": {}, "auto": {}, "unix": {kind: timeUnix}, "unixms": {kind: timeUnixMS}, "unixus": {kind: timeUnixUS}, "unixns": {kind: timeUnixNS},
	"rfc3339": zoned(time.RFC3339), "rfc3339nano": zoned(time.RFC3339Nano), "rfc1123": zoned(time.RFC1123), "rfc1123z": zoned(time.RFC1123Z),
	"rfc822": zoned(time.RFC822), "rfc822z": zoned(time.RFC822Z), "rfc850": zoned(time.RFC850), "rubydate": zoned(time.RubyDate),
	"unixdate": zoned(time.UnixDate), "ansic": {kind: timeLayout, layout: time.ANSIC}, "syslog": {kind: timeLayout, layout: time.Stamp},
}

func zoned(layout string) timeFormat {
	return timeFormat{kind: timeLayout, layout: layout, zoned: true}
}

// parseTimeFormat reads a name or a layout.
func parseTimeFormat(s string) (timeFormat, error) {
	if f, ok := timeNames[strings.ReplaceAll(strings.ToLower(s), "_", "")]; ok {
		return f, nil
	}
	base := time.Date(2026, 11, 22, 19, 52, 24, 0, time.UTC)
	shown := base.Format(s)
	if shown == s {
		return timeFormat{}, fmt.Errorf("%q is neither a name (auto, rfc3339, unix, unix_ms, unix_us, unix_ns, syslog) nor a layout of Go's, like 2006-01-02 15:04:05", s)
	}
	for _, other := range []time.Time{base.AddDate(0, 0, 1), base.Add(time.Hour), base.Add(time.Minute)} {
		if other.Format(s) == shown {
			return timeFormat{}, fmt.Errorf("the layout %q does not tell day, hour and minute; write the time 2006-01-02 15:04:05 in your form", s)
		}
	}
	if _, err := time.Parse(s, shown); err != nil {
		return timeFormat{}, errors.New("the layout cannot be read back: " + err.Error())
	}
	return timeFormat{kind: timeLayout, layout: s, zoned: strings.Contains(s, "Z07") || strings.Contains(s, "-07") || strings.Contains(s, "MST")}, nil
}

// formatted reads a stamp of a user's format.
func (z *zone) formatted(f *timeFormat, b []byte, at time.Time) (t time.Time, ok bool) {
	switch f.kind {
	case timeAuto:
		return z.guessed(b, at)
	case timeLayout:
		return z.layout(f, b, at)
	case timeUnix:
		t, ok = unixTime(b, time.Second)
	case timeUnixMS:
		t, ok = unixTime(b, time.Millisecond)
	case timeUnixUS:
		t, ok = unixTime(b, time.Microsecond)
	case timeUnixNS:
		t, ok = unixTime(b, time.Nanosecond)
	}
	return z.remember(t, ok)
}

// guessLayouts are tried in this order. Go reads a fraction after the seconds
// with "," and "." where the layout has none.
var guessLayouts = []timeFormat{
	{kind: timeLayout, layout: time.DateTime},
	zoned(time.RFC3339),
	{kind: timeLayout, layout: "2006-01-02T15:04:05"},
	zoned("2006-01-02T15:04:05Z0700"), zoned("2006-01-02 15:04:05Z07:00"), zoned("2006-01-02 15:04:05 Z0700"),
	{kind: timeLayout, layout: time.Stamp},
}

// guessed reads fail2ban's own stamp, RFC 3339, numbers and syslog's stamp.
func (z *zone) guessed(b []byte, at time.Time) (time.Time, bool) {
	if len(b) == stampLen+4 && b[10] == ' ' && (b[stampLen] == ',' || b[stampLen] == '.') {
		return z.stamp(b, at)
	}
	if unit, ok := unixUnit(b); ok {
		return z.remember(unixTime(b, unit))
	}
	if len(b) < len(time.Stamp) || len(b) > 64 {
		return time.Time{}, false
	}
	for i := range guessLayouts {
		if t, ok := z.layout(&guessLayouts[i], b, at); ok {
			return t, true
		}
	}
	return time.Time{}, false
}

// unixUnit tells by the length of a number what it counts.
func unixUnit(b []byte) (time.Duration, bool) {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	switch {
	case n < 9 || n < len(b) && b[n] != '.':
		return 0, false
	case n <= 11:
		return time.Second, true
	case n <= 14:
		return time.Millisecond, true
	case n <= 17:
		return time.Microsecond, true
	}
	return time.Nanosecond, true
}

// unixTime reads a number of units, with a fraction or without.
func unixTime(b []byte, unit time.Duration) (time.Time, bool) {
	whole, fraction := b, []byte(nil)
	for i, c := range b {
		if c == '.' {
			whole, fraction = b[:i], b[i+1:]
			break
		}
	}
	n, ok := bigInt(whole)
	if !ok || n < 0 || whole[0] == '+' {
		return time.Time{}, false
	}
	part, scale := time.Duration(0), unit
	for _, c := range fraction {
		if c < '0' || c > '9' {
			return time.Time{}, false
		}
		scale /= 10
		part += time.Duration(c-'0') * scale
	}
	perSecond := int64(time.Second / unit)
	t := time.Unix(n/perSecond, n%perSecond*int64(unit)).Add(part).UTC()
	return t, plausible(t)
}

// layout reads a stamp by a layout of Go's.
func (z *zone) layout(f *timeFormat, b []byte, at time.Time) (time.Time, bool) {
	t, err := time.Parse(f.layout, alias(b))
	if err != nil {
		return time.Time{}, false
	}
	if t.Year() == 0 {
		t = z.withYear(t, at)
	}
	if t = t.UTC(); !plausible(t) {
		return time.Time{}, false
	}
	if f.zoned {
		return z.remember(t, true)
	}
	return z.local(t, at), true
}

// withYear gives a stamp without a year the one that brings it nearest to the
// entry's time; in a file the year runs on with the lines.
func (z *zone) withYear(t, at time.Time) time.Time {
	if at.IsZero() {
		whole := t.AddDate(z.yearOf(t.Month()), 0, 0)
		if z.last.IsZero() && !z.newest.IsZero() && whole.After(z.newest.Add(24*time.Hour)) {
			return t.AddDate(whole.Year()-1, 0, 0)
		}
		return whole
	}
	best := t.AddDate(at.Year(), 0, 0)
	for _, y := range []int{at.Year() - 1, at.Year() + 1} {
		if other := t.AddDate(y, 0, 0); other.Sub(at).Abs() < best.Sub(at).Abs() {
			best = other
		}
	}
	return best
}

// local turns a wall clock's time, read as if it were UTC, into an instant.
func (z *zone) local(wall, at time.Time) time.Time {
	near := at
	if at.IsZero() {
		near = z.last
	} else if z.fixed == nil {
		z.learn(wall, at)
	}
	minute := wall.Truncate(time.Minute)
	base, _ := z.instant(minute, near)
	z.last = time.Unix(base, 0).Add(wall.Sub(minute)).UTC()
	return z.last
}

// remember keeps the last time of the stream.
func (z *zone) remember(t time.Time, ok bool) (time.Time, bool) {
	if ok {
		z.last = t
	}
	return t, ok
}
