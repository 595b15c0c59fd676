package fail2ban

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxHost bounds the name of a host that a user's format gives.
const MaxHost = 256

// FormatOptions describe a user's own form of lines.
type FormatOptions struct {
	// Name is the format's, and that of the jail where neither the line nor
	// its stream names one.
	Name string
	// Pattern, in the syntax of LogQL's pattern parser, or Regexp, in Go's with
	// named groups: one of them.
	Pattern, Regexp string
	// TimeFormat is a name (auto, rfc3339, unix, ...) or a layout of Go's time
	// package; empty is auto.
	TimeFormat string
	// Location is the zone of stamps without one; nil takes the source's.
	Location *time.Location
}

// Format is a user's own form of lines, ready to read them.
type Format struct {
	name  string
	zone  *time.Location
	time  timeFormat
	parts []patternPart
	re    *regexp.Regexp
	index [groups]int // of each group among the regexp's, 0 for none
	has   [groups]bool
}

// FormatError says which key of a format is wrong.
type FormatError struct {
	Key string // in the configuration's words
	Err error
}

// Error implements error.
func (e *FormatError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap gives what is wrong.
func (e *FormatError) Unwrap() error { return e.Err }

// group is what a capture of a format means.
type group int

const (
	groupTime group = iota
	groupLevel
	groupLogger
	groupPID
	groupThread
	groupMessage
	groupHost
	groupService
	groupJail
	groupAction
	groupIP

	groups
	groupNone group = -1
)

var groupNames = [groups]string{
	"time", "level", "logger", "pid", "thread", "message", "host", "service", "jail", "action", "ip",
}

// patternPart is a literal or, where that is empty, a capture.
type patternPart struct {
	literal []byte
	group   group
}

// NewFormat makes a format. Its errors are FormatErrors.
func NewFormat(o FormatOptions) (*Format, error) {
	f := &Format{name: o.Name, zone: o.Location}
	key := "pattern"
	var err error
	switch {
	case o.Pattern != "" && o.Regexp != "":
		err = errors.New("there is a regexp too; give one of them")
	case o.Pattern != "":
		err = f.compilePattern(o.Pattern)
	case o.Regexp != "":
		key, err = "regexp", f.compileRegexp(o.Regexp)
	default:
		err = errors.New("it is missing; give a pattern like `<time> - <action> - <ip> - <jail>`, or a regexp")
	}
	if err == nil {
		err = f.complete()
	}
	if err != nil {
		return nil, &FormatError{key, err}
	}
	if f.time, err = parseTimeFormat(o.TimeFormat); err != nil {
		return nil, &FormatError{"time_format", err}
	}
	return f, nil
}

// Name is the format's name.
func (f *Format) Name() string { return f.name }

// NamesHost tells whether the lines name their host.
func (f *Format) NamesHost() bool { return f.has[groupHost] }

// take marks a group as one that the format has.
func (f *Format) take(name string) (group, error) {
	g := group(slices.Index(groupNames[:], name))
	if g < 0 {
		return g, fmt.Errorf("%q is no name of a part; the names are %s", name, strings.Join(groupNames[:], ", "))
	}
	if f.has[g] {
		return g, fmt.Errorf("%q stands there twice; once is enough", name)
	}
	f.has[g] = true
	return g, nil
}

// complete tells whether the groups make an event.
func (f *Format) complete() error {
	own := f.has[groupAction] || f.has[groupIP] || f.has[groupJail]
	switch {
	case f.has[groupMessage] && own:
		return errors.New("`message` holds jail, action and ip already; name either `message` or the others")
	case !f.has[groupMessage] && (!f.has[groupAction] || !f.has[groupIP]):
		return errors.New("it names too little; name `message` (fail2ban's own text), or `action` and `ip`")
	}
	return nil
}

// compilePattern reads LogQL's pattern syntax: "<name>" captures up to the
// next literal, "<_>" skips.
func (f *Format) compilePattern(s string) error {
	var literal []byte
	flush := func() {
		if len(literal) > 0 {
			f.parts, literal = append(f.parts, patternPart{literal: literal}), nil
		}
	}
	for len(s) > 0 {
		name, ok := capture(s)
		if !ok {
			literal, s = append(literal, s[0]), s[1:]
			continue
		}
		flush()
		g := groupNone
		if name != "_" {
			var err error
			if g, err = f.take(name); err != nil {
				return err
			}
		}
		if n := len(f.parts); n > 0 && len(f.parts[n-1].literal) == 0 {
			return fmt.Errorf("nothing stands between <%s> and the part before it; put the text there that divides them", name)
		}
		f.parts, s = append(f.parts, patternPart{group: g}), s[len(name)+2:]
	}
	flush()
	return nil
}

// capture gives the name of the "<name>" that a text begins with.
func capture(s string) (string, bool) {
	end := strings.IndexByte(s, '>')
	if s[0] != '<' || end < 2 {
		return "", false
	}
	for i, c := range []byte(s[1:end]) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return "", false
		}
	}
	return s[1:end], true
}

// compileRegexp reads Go's syntax, whose named groups are the parts.
func (f *Format) compileRegexp(s string) error {
	re, err := regexp.Compile(s)
	if err != nil {
		return fmt.Errorf("%w; it must be of Go's syntax (RE2)", err)
	}
	for i, name := range re.SubexpNames() {
		if name == "" || name == "_" {
			continue
		}
		g, err := f.take(name)
		if err != nil {
			return err
		}
		f.index[g] = i
	}
	f.re = re
	return nil
}

// values are the parts of one line.
type values [groups][]byte

func (f *Format) match(line []byte, v *values) bool {
	if f.re == nil {
		return f.matchPattern(line, v)
	}
	m := f.re.FindSubmatchIndex(line)
	if m == nil {
		return false
	}
	for g, i := range f.index {
		if i > 0 && m[2*i] >= 0 {
			v[g] = line[m[2*i]:m[2*i+1]]
		}
	}
	return true
}

func (f *Format) matchPattern(line []byte, v *values) bool {
	parts := f.parts
	if first := parts[0].literal; len(first) > 0 {
		if !bytes.HasPrefix(line, first) {
			return false
		}
		line, parts = line[len(first):], parts[1:]
	}
	for len(parts) > 0 { // a capture and, but for the last, a literal
		value := line
		if len(parts) > 1 {
			var ok bool
			if value, line, ok = cutLiteral(line, parts[1].literal, len(parts) == 3); !ok {
				return false
			}
		}
		if g := parts[0].group; g != groupNone {
			v[g] = value
		}
		parts = parts[min(2, len(parts)):]
	}
	return true
}

// cutLiteral cuts a line around a literal. Before an empty last capture the
// spaces at the end of the line, and so of the literal, may be gone.
func cutLiteral(line, literal []byte, lastButOne bool) (before, after []byte, ok bool) {
	if before, after, ok = bytes.Cut(line, literal); ok || !lastButOne {
		return before, after, ok
	}
	before, ok = bytes.CutSuffix(line, bytes.TrimRight(literal, " "))
	return before, nil, ok
}

// parse reads a line: ErrForeign where it is not of this form, ErrUnparsed
// where it is and says nothing known.
func (f *Format) parse(p *Parser, line []byte, at time.Time, ev *Event) error {
	var v values
	if len(line) == 0 || !f.match(line, &v) {
		return ErrForeign
	}
	if text := bytes.TrimSpace(v[groupTime]); f.has[groupTime] {
		t, ok := p.zone.formatted(&f.time, text, at)
		if !ok {
			return ErrUnparsed
		}
		ev.Time = t
	}
	ev.Host = hostName(bytes.TrimSpace(v[groupHost]))
	if service := bytes.TrimSpace(v[groupService]); len(service) <= MaxJail {
		ev.Service = alias(service)
	}
	ev.Thread = alias(bytes.TrimSpace(v[groupThread]))
	ev.PID, _ = leadingInt(bytes.TrimSpace(v[groupPID]))
	if f.has[groupMessage] {
		return p.message(trimEnd(v[groupMessage]), ev)
	}
	return event(&v, ev)
}

// event makes an event of action, ip and jail.
func event(v *values, ev *Event) error {
	kind, ok := actionKind(v[groupAction])
	jail := bytes.TrimSpace(v[groupJail])
	if !ok || len(jail) > MaxJail {
		return ErrUnparsed
	}
	ev.Kind, ev.Jail = kind, alias(jail)
	return setID(bytes.TrimSpace(v[groupIP]), ev)
}

// hostName takes a host's name if it is one that can be shown.
func hostName(b []byte) string {
	if len(b) > MaxHost || !utf8.Valid(b) || bytes.ContainsFunc(b, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return alias(b)
}

// maxAction bounds what is looked at of an action.
const maxAction = 32

// actionKind reads a verb of the log in any case and with any of space, "_"
// and "-" between its words.
func actionKind(b []byte) (Kind, bool) {
	if len(b) > maxAction {
		return Other, false
	}
	var word [maxAction]byte
	n := 0
	for _, c := range b {
		if c == ' ' || c == '_' || c == '-' {
			continue
		}
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		word[n] = c
		n++
	}
	k, ok := actions[string(word[:n])]
	return k, ok
}

// actions are the log's own verbs and the words that our own outputs have for
// them.
var actions = map[string]Kind{
	"found": Found, "attempt": Attempt, "ban": Ban, "restoreban": RestoreBan, "restore": RestoreBan, "unban": Unban,
	"repealban": RepealBan, "increaseban": IncreaseBan, "increase": IncreaseBan, "alreadybanned": AlreadyBanned,
	"reban": Reban, "ignore": Ignore, "ignored": Ignore, "notbanned": NotBanned,
}
