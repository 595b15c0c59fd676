package fail2ban

import (
	"bytes"
	"errors"
	"net/netip"
	"strconv"
	"time"
	"unsafe"
)

// Limits of what a line may make us keep. Longer jails and ids are refused,
// longer lines cut.
const (
	MaxLine = 8 << 10
	MaxJail = 256
	MaxID   = 1 << 10
)

// ErrUnparsed says that a line begins like one of fail2ban's own but cannot be
// read: something that this package should know, or a damaged line.
var ErrUnparsed = errors.New("fail2ban: line cannot be read")

// ErrForeign says that a line is not fail2ban's own: output of an action, a
// traceback, another program's chatter.
var ErrForeign = errors.New("fail2ban: not a line of fail2ban's")

// Options configure a Parser.
type Options struct {
	// Location is the zone of the host's log, in which both the stamps of the
	// lines and the times inside messages stand. Nil infers it from the
	// entries' times, and takes UTC where lines come without.
	Location *time.Location
	// Newest is the newest time that a line may bear: what the year of
	// traditional syslog stamps, which tell none, is taken from in files.
	Newest time.Time
	// Format is the form of the lines where it is a user's own; nil for the
	// known ones, which are told apart by themselves.
	Format *Format
	// MessageFields are the fields of JSON and logfmt that may hold the line;
	// nil for DefaultMessageFields.
	MessageFields []string
	// Jails are names of jails, needed only for such as hold "] ".
	Jails []string
}

// Parser reads the lines of one stream. Between lines it keeps the zone that
// it inferred, the last time it saw, the form that the stream comes in and the
// names of its jails: see AppendState.
type Parser struct {
	zone   zone
	lock   lock
	given  names // configured
	learnt names // logged
	format *Format
	fields []string
	heads  heads
}

// NewParser makes a parser for one host's lines.
func NewParser(o Options) *Parser {
	p := &Parser{format: o.Format, fields: o.MessageFields}
	p.zone.fixed, p.zone.newest = o.Location, o.Newest
	if p.fields == nil {
		p.fields = DefaultMessageFields
	}
	if p.format != nil && p.format.zone != nil {
		p.zone.fixed = p.format.zone
	}
	for _, jail := range o.Jails {
		p.given.add(jail)
	}
	return p
}

// ParseText is Parse of a text, without a copy of it: a line is never written to.
func (p *Parser) ParseText(line string, at time.Time, ev *Event) error {
	return p.Parse(unsafeBytes(line), at, ev)
}

// Parse reads one line. at is the time that Loki has for the entry, zero for
// lines of a file. The event's strings alias the line.
//
// It returns nil for every line that fail2ban itself wrote, events or not
// (Kind Other), ErrForeign for lines that it did not write, ErrUnparsed for
// those that it seems to have written but that cannot be read.
func (p *Parser) Parse(line []byte, at time.Time, ev *Event) error {
	*ev = Event{Time: at}
	whole := line
	if len(line) > MaxLine {
		line = line[:MaxLine]
	}
	line = trimEnd(line)
	err := p.strong(line, at, ev)
	if err == nil {
		p.lock.admit(formPrefixed, ev.Kind, at)
		return nil
	}
	if p.format == nil && !errors.Is(err, ErrForeign) {
		return err
	}
	if weak := p.weak(line, whole, at, ev); !errors.Is(weak, ErrForeign) {
		return weak
	}
	return err
}

// strong reads a line with a prefix, or one in the user's own form.
func (p *Parser) strong(line []byte, at time.Time, ev *Event) error {
	if p.format != nil {
		return p.format.parse(p, line, at, ev)
	}
	msg, err := p.prefix(line, at, ev)
	if err != nil {
		return err
	}
	return p.message(msg, ev)
}

// weak reads a line that others can forge more easily: one that a shipper
// wrapped, or journald's bare message. What is refused teaches nothing.
func (p *Parser) weak(line, whole []byte, at time.Time, ev *Event) error {
	if line = skipSpaces(line); len(line) == 0 {
		return ErrForeign
	}
	*ev = Event{Time: at}
	if w, ok := unwrap(trimEnd(skipSpaces(whole[:min(len(whole), MaxWrapped)])), p.fields); ok {
		return p.unwrapped(&w, at, ev)
	}
	if p.format != nil || at.IsZero() || !bare(line) {
		return ErrForeign
	}
	zone, learnt := p.zone, p.learnt
	err := p.judge(formBare, p.message(line, ev), at, ev)
	if err != nil {
		p.zone, p.learnt = zone, learnt
	}
	return err
}

// unwrapped reads what a wrapped line holds. Where the entry has no time, the
// wrapper's counts.
func (p *Parser) unwrapped(w *wrapped, at time.Time, ev *Event) error {
	near := at
	if near.IsZero() {
		near = w.stamp()
	}
	ev.Time = near
	zone, learnt := p.zone, p.learnt
	msg := trimEnd(w.message[:min(len(w.message), MaxLine)])
	f, err := formWrapped, p.strong(msg, near, ev)
	if errors.Is(err, ErrForeign) && p.format == nil && bare(msg) {
		*ev = Event{Time: near}
		f, err = formWrappedBare, p.message(msg, ev)
	}
	if err = p.judge(f, err, at, ev); err != nil {
		p.zone, p.learnt = zone, learnt
		return err
	}
	if len(w.thread) > 0 {
		ev.Thread = alias(w.thread)
	}
	if pid, ok := leadingInt(w.pid); ok && ev.PID == 0 {
		ev.PID = pid
	}
	return nil
}

// judge makes a line foreign whose form its stream does not come in. What
// cannot be read is neither for nor against a form.
func (p *Parser) judge(f form, err error, at time.Time, ev *Event) error {
	if err != nil && f < p.lock.held || err == nil && !p.lock.admit(f, ev.Kind, at) {
		return ErrForeign
	}
	return err
}

// message reads what follows the prefix, by its first byte.
func (p *Parser) message(m []byte, ev *Event) error {
	m = skipSpaces(m)
	if len(m) == 0 {
		return nil
	}
	switch m[0] {
	case '[':
		return p.jailMessage(m, ev)
	case 'J':
		jailLifecycle(m, ev)
	case 'R', 'A':
		reloadOrWatch(m, ev)
	case 'C', 'S', 'E', 'N', 'F':
		serverMessage(m, ev)
	case 'b', 'f', 'm':
		setting(m, ev)
	}
	if ev.Jail != "" && ev.Kind != ReloadJail { // that one quotes what a client asked for
		p.learnt.add(ev.Jail)
	}
	return nil
}

// idMessage reads what follows the verb; times and reasons are cut at the end
// of the line, so that an id may hold their separators.
func (p *Parser) idMessage(rest []byte, ev *Event) error {
	switch ev.Kind {
	case Found:
		return p.found(rest, ev)
	case Attempt:
		if id, t, ok := p.cutTime(rest, " - ", ev.Time); ok {
			ev.FoundAt, rest = t, id
		}
	case IncreaseBan:
		return p.increase(rest, ev)
	case Ignore:
		rest = ignored(rest, ev)
	case Reban:
		if i := bytes.LastIndex(rest, []byte(", action '")); i > 0 {
			ev.Detail, rest = alias(bytes.TrimSuffix(rest[i+len(", action '"):], []byte("'"))), rest[:i]
		}
	case IsBad:
		i := bytes.LastIndex(rest, []byte(" is bad: "))
		if i < 0 {
			return ErrUnparsed
		}
		ev.Detail, rest = alias(rest[i+len(" is bad: "):]), rest[:i]
		ev.Count, _ = leadingInt(unsafeBytes(ev.Detail))
	case Flush:
		ev.Detail = alias(rest)
		return nil
	}
	return setID(rest, ev)
}

// found reads "X", "X - T" and the observer's "X, bad - T, N # -> R[, Ban]".
func (p *Parser) found(rest []byte, ev *Event) error {
	if id, t, ok := p.cutTime(rest, " - ", ev.Time); ok {
		ev.FoundAt = t
		return setID(id, ev)
	}
	if i := bytes.LastIndex(rest, []byte(", bad - ")); i > 0 {
		tail := rest[i+len(", bad - "):]
		if len(tail) > stampLen && tail[stampLen] == ',' && bytes.Contains(tail[stampLen:], []byte(" # -> ")) {
			if t, ok := p.zone.inside(tail[:stampLen], ev.Time); ok {
				ev.Kind, ev.FoundAt = FoundAgain, t
				ev.Count, _ = leadingInt(skipSpaces(tail[stampLen+1:]))
				return setID(rest[:i], ev)
			}
		}
	}
	return setID(rest, ev)
}

// increase reads "X (N # D -> T)" and "X (N # permanent -> infinite)".
func (p *Parser) increase(rest []byte, ev *Event) error {
	i := bytes.LastIndex(rest, []byte(" ("))
	if i < 1 || rest[len(rest)-1] != ')' {
		return ErrUnparsed
	}
	tail := rest[i+2 : len(rest)-1]
	hash := bytes.Index(tail, []byte(" # "))
	arrow := bytes.Index(tail, []byte(" -> "))
	if hash < 1 || arrow < hash+len(" # ") {
		return ErrUnparsed
	}
	ev.Count, _ = leadingInt(tail)
	if until := tail[arrow+4:]; string(until) == "infinite" {
		ev.BanTime = Permanent
	} else if len(until) >= stampLen {
		ev.Until, _ = p.zone.inside(until[:stampLen], ev.Time)
	}
	if d, ok := spelledDuration(tail[hash+3 : arrow]); ok && ev.BanTime == 0 {
		ev.BanTime = d
	}
	return setID(rest[:i], ev)
}

// ignored cuts "X by S" and "X, expired bantime".
func ignored(rest []byte, ev *Event) []byte {
	if id, ok := bytes.CutSuffix(rest, []byte(", expired bantime")); ok {
		ev.Kind = IgnoreExpired
		return id
	}
	if i := bytes.LastIndex(rest, []byte(" by ")); i > 0 {
		ev.Detail = alias(rest[i+4:])
		return rest[:i]
	}
	return rest
}

// cutTime cuts "<sep>YYYY-MM-DD HH:MM:SS" from the end of a message.
func (p *Parser) cutTime(b []byte, sep string, near time.Time) (before []byte, t time.Time, ok bool) {
	i := len(b) - stampLen - len(sep)
	if i < 1 || string(b[i:i+len(sep)]) != sep {
		return b, t, false
	}
	t, ok = p.zone.inside(b[i+len(sep):], near)
	return b[:i], t, ok
}

func setID(id []byte, ev *Event) error {
	if len(id) == 0 || len(id) > MaxID {
		ev.Kind = Other
		return ErrUnparsed
	}
	ev.ID = alias(id)
	ev.Addr = address(ev.ID)
	return nil
}

// address reads an address or a subnet; anything else gives the zero Prefix.
// Texts that cannot be one are told apart cheaply: netip's errors allocate.
func address(id string) netip.Prefix {
	if len(id) > 43 || len(id) < 2 {
		return netip.Prefix{}
	}
	if a, ok := ipv4(id); ok {
		return netip.PrefixFrom(a, 32)
	}
	slash, colon, dots := -1, false, 0
	for i := range len(id) {
		switch c := id[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		case c == '.':
			dots++
		case c == ':':
			colon = true
		case c == '/' && slash < 0:
			slash = i
		default:
			return netip.Prefix{}
		}
	}
	if !colon && dots != 3 {
		return netip.Prefix{}
	}
	if slash >= 0 {
		p, err := netip.ParsePrefix(id)
		if err != nil {
			return netip.Prefix{}
		}
		return p
	}
	a, err := netip.ParseAddr(id)
	if err != nil {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// ipv4 reads the addresses that nearly all ids are: four numbers without
// leading zeros.
func ipv4(id string) (netip.Addr, bool) {
	var a [4]byte
	part, n, length := 0, 0, 0
	for i := range len(id) {
		c := id[i]
		if c == '.' {
			if length == 0 || part == 3 {
				return netip.Addr{}, false
			}
			a[part] = byte(n)
			part, n, length = part+1, 0, 0
			continue
		}
		if c < '0' || c > '9' || length > 0 && n == 0 {
			return netip.Addr{}, false
		}
		length++
		if n = n*10 + int(c-'0'); n > 255 {
			return netip.Addr{}, false
		}
	}
	a[3] = byte(n)
	return netip.AddrFrom4(a), part == 3 && length > 0
}

// jailLifecycle reads "Jail 'J' started|stopped|reloaded".
func jailLifecycle(m []byte, ev *Event) {
	m = trimEnd(m)
	for _, end := range jailEnds {
		rest, ok := bytes.CutSuffix(m, end.text)
		if !ok || !bytes.HasPrefix(rest, []byte("Jail ")) {
			continue
		}
		if name, ok := literal(rest[len("Jail "):]); ok {
			ev.Kind, ev.Jail = end.kind, name
		}
		return
	}
}

var jailEnds = []struct {
	text []byte
	kind Kind
}{{[]byte(" started"), JailStarted}, {[]byte(" stopped"), JailStopped}, {[]byte(" reloaded"), JailReloaded}}

func reloadOrWatch(m []byte, ev *Event) {
	switch {
	case string(m) == "Reload all jails":
		ev.Kind = ReloadAll
	case string(m) == "Reload finished.":
		ev.Kind = ReloadFinished
	case bytes.HasPrefix(m, []byte("Reload jail ")):
		rest := m[len("Reload jail "):]
		if name, ok := literal(rest); ok {
			ev.Kind, ev.Jail = JailReloading, name
		} else if len(rest) <= MaxJail {
			ev.Kind, ev.Jail = ReloadJail, alias(rest)
		}
	case bytes.HasPrefix(m, []byte("Restart jail ")):
		if name, ok := quoted(m[len("Restart jail "):]); ok && len(name) <= MaxJail {
			ev.Kind, ev.Jail = JailRestarting, name
		}
	case bytes.HasPrefix(m, []byte("Removed logfile: ")):
		ev.Kind, ev.Detail = WatchEnded, watched(m[len("Removed logfile: "):])
	case bytes.HasPrefix(m, []byte("Removed journal match for: ")):
		ev.Kind, ev.Detail = WatchEnded, watched(m[len("Removed journal match for: "):])
	case bytes.HasPrefix(m, []byte("Added logfile: ")):
		ev.Kind, ev.Detail = WatchBegun, watched(m[len("Added logfile: "):])
	case bytes.HasPrefix(m, []byte("Added journal match for: ")):
		ev.Kind, ev.Detail = WatchBegun, watched(m[len("Added journal match for: "):])
	}
}

// watched takes the file's name out of "'F' (pos = ...)", or the text as it is.
func watched(b []byte) string {
	if name, ok := quoted(b); ok {
		return name
	}
	return alias(b[:min(len(b), MaxID)])
}

func serverMessage(m []byte, ev *Event) {
	switch {
	case bytes.HasPrefix(m, []byte("Creating new jail ")):
		if name, ok := literal(m[len("Creating new jail "):]); ok {
			ev.Kind, ev.Jail = JailCreated, name
		}
	case bytes.HasPrefix(m, []byte("Starting Fail2ban v")):
		ev.Kind, ev.Version = ServerStart, alias(m[len("Starting Fail2ban v"):])
	case bytes.HasPrefix(m, []byte("Changed logging target to ")):
		// 0.8 and 0.9 start with this line; newer ones say "Start Fail2ban
		// vX" before it and log it at run time too.
		if i := bytes.LastIndex(m, []byte(" for Fail2ban v")); i > 0 {
			if v := alias(m[i+len(" for Fail2ban v"):]); LegacyVersion(v) {
				ev.Kind, ev.Version = ServerStart, v
			}
		}
	case string(m) == "Shutdown in progress...":
		ev.Kind = ShutdownBegun
	case string(m) == "Stopping all jails":
		ev.Kind = StoppingJails
	case string(m) == "Exiting Fail2ban":
		ev.Kind = ServerExited
	case bytes.HasPrefix(m, []byte("Connected to fail2ban persistent database")):
		ev.Kind = DatabaseOpened
	case bytes.HasPrefix(m, []byte("New database created.")):
		ev.Kind = DatabaseCreated
	case string(m) == "Fail2ban seems to be already running":
		ev.Kind = AlreadyRunning
	case bytes.HasPrefix(m, []byte("Failed to execute ban jail ")):
		actionError(m[len("Failed to execute ban jail "):], ev)
	case bytes.HasPrefix(m, []byte("Set ")):
		legacySetting(m[len("Set "):], ev)
	}
}

// LegacyVersion tells the versions 0.8 and 0.9, which print restored bans as
// plain `Ban` and log no time of a failure.
func LegacyVersion(v string) bool {
	return len(v) >= 3 && (v[:3] == "0.8" || v[:3] == "0.9")
}

// actionError reads "'J' action 'A' info '...': reason". The names are quoted
// by hand, so a quote in them stands as it is.
func actionError(m []byte, ev *Event) {
	jail, rest, ok := bytes.Cut(bytes.TrimPrefix(m, []byte("'")), []byte("' action '"))
	if !ok || len(jail) == 0 || len(jail) > MaxJail {
		return
	}
	action, rest, ok := bytes.Cut(rest, []byte("'"))
	if !ok {
		return
	}
	ev.Kind, ev.Jail, ev.Detail = ActionError, alias(jail), alias(action)
	// the info is a Python object that names the id; take it where it is plain
	if _, tail, found := bytes.Cut(rest, []byte("'ip': '")); found {
		if id, _, found := bytes.Cut(tail, []byte("'")); found && len(id) > 0 && len(id) <= MaxID {
			ev.ID = alias(id)
			ev.Addr = address(ev.ID)
		}
	}
}

// setting reads "banTime: N" and its kin, which 0.10 and newer indent by two.
func setting(m []byte, ev *Event) {
	switch {
	case bytes.HasPrefix(m, []byte("banTime: ")):
		settingSeconds(m[len("banTime: "):], SettingBanTime, ev)
	case bytes.HasPrefix(m, []byte("findtime: ")):
		settingSeconds(m[len("findtime: "):], SettingFindTime, ev)
	case bytes.HasPrefix(m, []byte("maxRetry: ")):
		if n, ok := leadingInt(m[len("maxRetry: "):]); ok {
			ev.Kind, ev.Count = SettingMaxRetry, n
		}
	}
}

// legacySetting reads 0.8's and 0.9's "Set banTime = N", and the increment's
// settings of the newer ones.
func legacySetting(m []byte, ev *Event) {
	switch {
	case bytes.HasPrefix(m, []byte("banTime = ")):
		settingSeconds(m[len("banTime = "):], SettingBanTime, ev)
	case bytes.HasPrefix(m, []byte("findtime = ")):
		settingSeconds(m[len("findtime = "):], SettingFindTime, ev)
	case bytes.HasPrefix(m, []byte("maxRetry = ")):
		if n, ok := leadingInt(m[len("maxRetry = "):]); ok {
			ev.Kind, ev.Count = SettingMaxRetry, n
		}
	case bytes.HasPrefix(m, []byte("banTime.increment = ")):
		ev.Kind = SettingIncrement
		if bytes.HasSuffix(m, []byte("True")) {
			ev.Count = 1
		}
	}
}

func settingSeconds(b []byte, k Kind, ev *Event) {
	n, ok := leadingInt(b)
	if !ok {
		return
	}
	ev.Kind, ev.BanTime = k, time.Duration(n)*time.Second
	if n < 0 {
		ev.BanTime = Permanent
	}
}

// spelledDuration reads "4m", "1m 20s", "13.34s", "1d 2h", "3w".
func spelledDuration(b []byte) (time.Duration, bool) {
	var sum float64
	for len(b) > 0 {
		i := 0
		for i < len(b) && (b[i] >= '0' && b[i] <= '9' || b[i] == '.') {
			i++
		}
		if i == 0 || i > 20 {
			return 0, false
		}
		n, err := strconv.ParseFloat(alias(b[:i]), 64)
		if err != nil {
			return 0, false
		}
		b = b[i:]
		unit := bytes.IndexByte(b, ' ')
		if unit < 0 {
			unit = len(b)
		}
		seconds, ok := unitSeconds(string(b[:unit]))
		if !ok {
			return 0, false
		}
		sum += n * seconds
		b = skipSpaces(b[unit:])
	}
	if sum <= 0 || sum > maxSeconds {
		return 0, false
	}
	return time.Duration(sum * float64(time.Second)), true
}

// maxSeconds bounds durations to what time.Duration can hold.
const maxSeconds = 1 << 33

func unitSeconds(u string) (float64, bool) {
	switch u {
	case "s", "":
		return 1, true
	case "m":
		return 60, true
	case "h":
		return 3600, true
	case "d":
		return 86400, true
	case "w":
		return 7 * 86400, true
	case "mo", "mon", "month":
		return 30 * 86400, true
	case "y":
		return 365 * 86400, true
	}
	return 0, false
}

// leadingInt reads an integer from the front, bounded to what a count or a
// number of seconds may be.
func leadingInt(b []byte) (int, bool) {
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	n, i := 0, 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		if n = n*10 + int(b[i]-'0'); n > maxSeconds {
			return 0, false
		}
		i++
	}
	if neg {
		n = -n
	}
	return n, i > 0
}

func skipSpaces(b []byte) []byte {
	i := 0
	for i < len(b) && b[i] == ' ' {
		i++
	}
	return b[i:]
}

func trimEnd(b []byte) []byte {
	for len(b) > 0 {
		switch b[len(b)-1] {
		case '\n', '\r', 0, ' ':
			b = b[:len(b)-1]
		default:
			return b
		}
	}
	return b
}

// alias shows bytes as a string without copying: Event promises no more.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func unsafeBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
