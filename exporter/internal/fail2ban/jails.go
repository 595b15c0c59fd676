package fail2ban

import (
	"bytes"
	"slices"
	"strings"
)

// Limits of the jails' names that a parser keeps.
const (
	maxNames = 64
	// maxGuess is the longest name with "] " in it that is taken from a line
	// alone: fail2ban's own texts that quote a foreign log line are longer
	// before they come to it.
	maxGuess = 40
)

// names are jails known by name.
type names struct {
	odd    []string // those that hold "] ", longest first
	plain  []string // the others
	recent string   // the last one noted: most lines are of the jail before
}

// note remembers a name, which may be of any length.
func (n *names) note(jail []byte) {
	if string(jail) != n.recent {
		n.add(alias(jail))
	}
}

// add remembers a name.
func (n *names) add(jail string) {
	list := &n.plain
	if strings.Contains(jail, "] ") {
		list = &n.odd
	}
	if i := slices.Index(*list, jail); i >= 0 {
		n.recent = (*list)[i]
		return
	}
	if jail == "" || len(jail) > MaxJail || len(n.odd)+len(n.plain) >= maxNames {
		return
	}
	n.recent = strings.Clone(jail)
	*list = append(slices.Clip(*list), n.recent) // a copy: what is refused is undone with the list as it was
	slices.SortStableFunc(n.odd, func(a, b string) int { return len(b) - len(a) })
}

// begins gives the longest odd name that the text "name] rest" begins with.
func (n *names) begins(b []byte) string {
	for _, name := range n.odd {
		if len(b) >= len(name)+2 && string(b[:len(name)]) == name && b[len(name)] == ']' && b[len(name)+1] == ' ' {
			return name
		}
	}
	return ""
}

// jailMessage reads "[jail] verb rest".
//
// Where the jail's name ends is told, in this order, by
//  1. a name known to hold "] " (configured, or logged by fail2ban in quotes),
//     the longest that fits;
//  2. the first "] ", if a verb follows, or if the line is one of those that
//     begin with the id and end with their verb;
//  3. a later "] " that a verb follows, if what the first one would cut is no
//     jail known by name, and the name stays short.
//
// So an id further right can look like anything without forging a jail or a
// verb, and neither can the log lines that fail2ban quotes in its warnings.
func (p *Parser) jailMessage(m []byte, ev *Event) error {
	if len(p.given.odd)+len(p.learnt.odd) > 0 {
		name := p.given.begins(m[1:])
		if other := p.learnt.begins(m[1:]); len(other) > len(name) {
			name = other
		}
		if name != "" {
			_, err := p.jailVerb(m[1:1+len(name)], m[len(name)+3:], ev)
			return err
		}
	}
	end := cutJail(m)
	if end < 2 || end > MaxJail {
		return nil
	}
	jail, rest := m[1:end], m[end+2:]
	read, err := p.jailVerb(jail, rest, ev)
	switch {
	case read && err == nil:
		p.learnt.note(jail)
	case !read && !slices.Contains(p.given.plain, alias(jail)) && !slices.Contains(p.learnt.plain, alias(jail)):
		return p.guessJail(m, end, ev)
	}
	return err
}

// cutJail finds the first "] ".
func cutJail(m []byte) int {
	for i := 0; i+1 < len(m); i++ {
		if m[i] == ']' && m[i+1] == ' ' {
			return i
		}
	}
	return -1
}

// guessJail looks for a name with "] " in it that nothing has told yet.
func (p *Parser) guessJail(m []byte, end int, ev *Event) error {
	for {
		next := cutJail(m[end+1:])
		if next < 0 {
			return nil
		}
		if end += 1 + next; end-1 > maxGuess {
			return nil
		}
		if k, _ := verb(m[end+2:]); k != Other {
			_, err := p.jailVerb(m[1:end], m[end+2:], ev)
			return err
		}
	}
}

// jailVerb reads what follows "[jail] ", if it is an event.
func (p *Parser) jailVerb(jail, rest []byte, ev *Event) (read bool, err error) {
	if k, n := verb(rest); k != Other {
		ev.Jail, ev.Kind = alias(jail), k
		return true, p.idMessage(rest[n:], ev)
	}
	const already, absent = " already banned", " is not banned"
	switch {
	case bytes.HasSuffix(rest, []byte(already)):
		ev.Jail, ev.Kind = alias(jail), AlreadyBanned
		return true, setID(rest[:len(rest)-len(already)], ev)
	case bytes.HasSuffix(rest, []byte(absent)):
		ev.Jail, ev.Kind = alias(jail), NotBanned
		return true, setID(rest[:len(rest)-len(absent)], ev)
	}
	return false, nil
}

// verb gives the kind that the text after "[jail] " begins with, and the
// length of its words.
func verb(b []byte) (Kind, int) {
	if len(b) < len("IP ") {
		return Other, 0
	}
	switch b[0] {
	case 'F':
		return either(b, "Found ", Found, "Flush ticket(s) with ", Flush)
	case 'B':
		return either(b, "Ban ", Ban, "", Other)
	case 'U':
		return either(b, "Unban ", Unban, "", Other)
	case 'R':
		if b[2] == 'b' {
			return either(b, "Reban ", Reban, "", Other)
		}
		return either(b, "Restore Ban ", RestoreBan, "Repeal Ban ", RepealBan)
	case 'I':
		if b[1] == 'P' {
			return either(b, "IP ", IsBad, "", Other)
		}
		return either(b, "Increase Ban ", IncreaseBan, "Ignore ", Ignore)
	case 'A':
		return either(b, "Attempt ", Attempt, "", Other)
	}
	return Other, 0
}

// either tells which of two words the text begins with.
func either(b []byte, first string, k Kind, second string, other Kind) (Kind, int) {
	switch {
	case len(b) >= len(first) && string(b[:len(first)]) == first:
		return k, len(first)
	case second != "" && len(b) >= len(second) && string(b[:len(second)]) == second:
		return other, len(second)
	}
	return Other, 0
}
