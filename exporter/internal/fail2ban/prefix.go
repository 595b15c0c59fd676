package fail2ban

import (
	"bytes"
	"time"
)

// stampLen is the length of "YYYY-MM-DD HH:MM:SS".
const stampLen = 19

// prefix reads what stands before the message and returns the message. The
// forms are told apart by their first bytes:
//
//	2026-11-22 19:52:24,477 fail2ban.actions        [32087]: NOTICE  msg   file, STDOUT (padding=off too)
//	 2026-11-22 20:16:42,506 7F63A6154040 INFO  msg                        STDOUT with -vv
//	 +  377 7FC7F6A8F040 fail2ban.server           INFO  msg               STDOUT with -vvv
//	fail2ban.actions        [24603]: NOTICE  msg                           SYSOUT, datetime=off
//	<29>fail2ban.actions[26539]: NOTICE msg                                syslog datagram
//	Nov 22 21:16:56 web-1 fail2ban.actions[27460]: NOTICE msg              syslog, traditional
//	2026-11-22T21:16:56.461295+01:00 web-1 fail2ban.actions[27460]: msg    syslog, ISO
//	<29>1 2026-11-22T21:16:56.461295+01:00 web-1 fail2ban.actions 27460 - -  NOTICE msg   RFC 5424
//
// Anything else is foreign, to be looked at as a weaker form.
func (p *Parser) prefix(line []byte, at time.Time, ev *Event) ([]byte, error) {
	if len(line) > stampLen+4 && line[4] == '-' && line[10] == ' ' && line[stampLen] == ',' {
		return p.dated(line, at, ev)
	}
	b := skipSpaces(line)
	if len(b) == 0 {
		return nil, ErrForeign
	}
	if len(b) > stampLen+4 && b[4] == '-' && b[10] == ' ' && b[stampLen] == ',' {
		return p.dated(b, at, ev)
	}
	switch {
	case b[0] == '<':
		return p.datagram(b, at, ev)
	case b[0] == '+' && len(line) > len(b):
		return p.elapsed(b, ev)
	case startsFail2ban(b):
		return p.named(b, ev)
	case len(b) > 20 && b[3] == ' ' && b[6] == ' ' && b[9] == ':' && b[12] == ':':
		return p.traditional(b, at, ev)
	case len(b) > 20 && b[4] == '-' && b[10] == 'T':
		return p.iso(b, ev)
	}
	return nil, ErrForeign
}

// dated reads the default form, from the stamp on.
func (p *Parser) dated(b []byte, at time.Time, ev *Event) (msg []byte, err error) {
	rest := skipSpaces(b[stampLen+4:])
	if len(rest) > 13 && rest[12] == ' ' && isHex(rest[:12]) {
		ev.Thread = alias(rest[:12])
		msg, err = p.levelled(rest[13:])
	} else {
		msg, err = p.named(rest, ev)
	}
	if err != nil {
		return nil, err
	}
	t, ok := p.zone.stamp(b[:stampLen+4], at) // last: another program's stamp teaches no zone
	if !ok {
		return nil, ErrForeign
	}
	ev.Time = t
	return msg, nil
}

// named reads "fail2ban.actions   [pid]: LEVEL  msg", with the variants of 0.8:
// no pid, pid glued to the name.
func (p *Parser) named(b []byte, ev *Event) ([]byte, error) {
	if !startsFail2ban(b) {
		return nil, ErrForeign
	}
	i := len("fail2ban")
	for i < len(b) && b[i] != ' ' && b[i] != '[' && b[i] != ':' {
		i++
	}
	rest := skipSpaces(b[i:])
	if len(rest) > 0 && rest[0] == '[' {
		pid, ok := leadingInt(rest[1:])
		end := 1
		for end < len(rest) && rest[end] != ']' {
			end++
		}
		if !ok || end == len(rest) {
			return nil, ErrUnparsed
		}
		ev.PID, rest = pid, rest[end+1:]
	}
	if len(rest) == 0 || rest[0] != ':' {
		return nil, ErrUnparsed
	}
	rest = skipSpaces(rest[1:])
	if startsFail2ban(rest) && len(rest) > 8 && rest[8] == '.' {
		return p.named(rest, ev) // systemd's capture of stdout: fail2ban-server[1]: fail2ban.actions [1]: ...
	}
	return p.levelled(rest)
}

// levelled cuts the level, where one stands there.
func (p *Parser) levelled(b []byte) ([]byte, error) {
	b = skipSpaces(b)
	i := 0
	for i < len(b) && i <= maxLevel && b[i] != ' ' {
		i++
	}
	if i < 3 || i > maxLevel || !isLevel(b[:i]) {
		return b, nil // journalctl's short form: the bare message follows
	}
	return b[i:], nil
}

// maxLevel is the length of the longest level, CRITICAL, and of "#09-Lev.".
const maxLevel = 8

func isLevel(b []byte) bool {
	switch string(b) {
	case "NOTICE", "INFO", "WARNING", "ERROR", "CRITICAL", "DEBUG", "MSG", "TRACE", "HEAVY", "NOTIC", "WARNI", "CRITI":
		return true
	}
	return b[0] == '#'
}

// elapsed reads -vvv's "+  377 7FC7F6A8F040 fail2ban.server   INFO  msg".
func (p *Parser) elapsed(b []byte, ev *Event) ([]byte, error) {
	b = skipSpaces(b[1:])
	i := bytes.IndexByte(b, ' ')
	if _, ok := leadingInt(b); !ok || i < 1 {
		return nil, ErrForeign
	}
	b = b[i+1:]
	if len(b) < 14 || b[12] != ' ' || !isHex(b[:12]) {
		return nil, ErrForeign
	}
	ev.Thread = alias(b[:12])
	b = b[13:]
	if !startsFail2ban(b) {
		return nil, ErrForeign
	}
	if i = bytes.IndexByte(b, ' '); i < 0 {
		return nil, ErrUnparsed
	}
	return p.levelled(b[i:])
}

// datagram reads what follows a syslog priority: RFC 5424's "1 ", or at once
// the message's own prefix.
func (p *Parser) datagram(b []byte, at time.Time, ev *Event) ([]byte, error) {
	end := bytes.IndexByte(b, '>')
	if end < 2 || end > 4 {
		return nil, ErrForeign
	}
	b = b[end+1:]
	if startsFail2ban(b) {
		return p.named(b, ev)
	}
	if len(b) > 22 && b[0] == '1' && b[1] == ' ' {
		return p.rfc5424(b[2:], ev)
	}
	if len(b) > 20 && b[3] == ' ' && b[6] == ' ' {
		return p.traditional(b, at, ev)
	}
	return nil, ErrForeign
}

// rfc5424 reads "TIME HOST APP PID MSGID SD  LEVEL msg".
func (p *Parser) rfc5424(b []byte, ev *Event) ([]byte, error) {
	var fields [6][]byte
	for i := range fields {
		end := bytes.IndexByte(b, ' ')
		if end < 1 {
			return nil, ErrForeign
		}
		fields[i], b = b[:end], b[end+1:]
	}
	if !bytes.HasPrefix(fields[2], []byte("fail2ban")) {
		return nil, ErrForeign
	}
	t, ok := isoTime(fields[0])
	if !ok {
		return nil, ErrUnparsed
	}
	ev.Time = t
	ev.PID, _ = leadingInt(fields[3])
	return p.afterProgram(b, ev)
}

// iso reads "2026-11-22T21:16:56.461295+01:00 HOST PROGRAM[pid]: msg".
func (p *Parser) iso(b []byte, ev *Event) ([]byte, error) {
	i := bytes.IndexByte(b, ' ')
	if i < stampLen {
		return nil, ErrForeign
	}
	t, ok := isoTime(b[:i])
	if !ok {
		return nil, ErrForeign
	}
	ev.Time = t
	return p.hosted(b[i+1:], ev)
}

// traditional reads "Nov 22 21:16:56 HOST PROGRAM[pid]: msg". Its stamp has
// neither a year nor a zone: the entry's time, where there is one, says both.
func (p *Parser) traditional(b []byte, at time.Time, ev *Event) ([]byte, error) {
	t, ok := p.zone.traditional(b[:15], at)
	if !ok {
		return nil, ErrForeign
	}
	ev.Time = t
	return p.hosted(b[16:], ev)
}

// hosted skips the host's name and reads on at the program's.
func (p *Parser) hosted(b []byte, ev *Event) ([]byte, error) {
	i := bytes.IndexByte(b, ' ')
	if i < 1 || !bytes.HasPrefix(b[i+1:], []byte("fail2ban")) {
		return nil, ErrForeign
	}
	return p.named(b[i+1:], ev)
}

func (p *Parser) afterProgram(b []byte, ev *Event) ([]byte, error) {
	b = skipSpaces(b)
	if bytes.HasPrefix(b, []byte("fail2ban.")) {
		return p.named(b, ev)
	}
	return p.levelled(b)
}

// bare tells whether a line begins like one of fail2ban's messages, which is
// all that journald's MESSAGE holds.
func bare(b []byte) bool {
	b = skipSpaces(b)
	for _, lead := range bareLeads {
		if bytes.HasPrefix(b, lead) {
			return true
		}
	}
	return false
}

var bareLeads = [][]byte{
	[]byte("["), []byte("Jail '"), []byte("Creating new jail '"), []byte("Starting Fail2ban v"), []byte("Shutdown in progress..."),
	[]byte("Stopping all jails"), []byte("Exiting Fail2ban"), []byte("Reload "), []byte("Restart jail '"), []byte("Connected to fail2ban"),
	[]byte("New database created"), []byte("Fail2ban seems"), []byte("Failed to execute"), []byte("Removed logfile"), []byte("Added logfile"),
	[]byte("Removed journal"), []byte("Added journal"), []byte("banTime: "), []byte("findtime: "), []byte("maxRetry: "), []byte("Set ban"),
	[]byte("Set find"), []byte("Set maxR"), []byte("Changed logging"),
}

func startsFail2ban(b []byte) bool { return len(b) >= 8 && string(b[:8]) == "fail2ban" }

func isHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
