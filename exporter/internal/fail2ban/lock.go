package fail2ban

import "time"

// form is how a line came, the weakest first: the further right, the less of
// it can an attacker write who gets text into fail2ban's output.
type form uint8

const (
	formNone form = iota
	// formBare is the message alone, as journald's MESSAGE.
	formBare
	// formWrappedBare is the message alone in a field of JSON or logfmt.
	formWrappedBare
	// formWrapped is a line with its prefix in a field of JSON or logfmt.
	formWrapped
	// formPrefixed is a line as fail2ban or a syslog wrote it.
	formPrefixed

	forms
)

// When a stream that showed a stronger form is taken to have changed for good.
const (
	// lockLines is how many lines of one weaker form must come, and none of
	// the form held or a stronger one between them.
	lockLines = 100
	// lockSpan is how long they must take by the entries' times, where lines
	// have such: the output of one command comes within seconds.
	lockSpan = 10 * time.Minute
)

// lock holds the form of a stream.
//
// fail2ban prints the commands of failing actions raw, with the attackers' log
// lines in them, so that lines without a prefix follow which may look like a
// bare message or like JSON. Therefore a stream is read in the strongest form
// that it has shown, and goes up to a stronger one at once; a weaker one is
// foreign until it has come so often and for so long that somebody must have
// configured fail2ban or the shipper anew.
//
// Only lines that say something show a form: before a server that logs to the
// journal, its client warns of the configuration on standard output, with a
// prefix (`fail2ban.configreader [1]: WARNING 'allowipv6' not defined ...`).
type lock struct {
	held   form
	weaker form  // what came since the last line of the form held
	count  int   // how many of it, up to lockLines
	since  int64 // the first of them, in Unix seconds of the entry
}

// admit tells whether a line of this form is read.
func (l *lock) admit(f form, k Kind, at time.Time) bool {
	if f > l.held && k == Other {
		return true
	}
	if f >= l.held {
		l.held, l.weaker, l.count = f, formNone, 0
		return true
	}
	if f != l.weaker {
		l.weaker, l.count, l.since = f, 0, at.Unix()
	}
	l.count = min(l.count+1, lockLines)
	if l.count < lockLines || !at.IsZero() && at.Unix()-l.since < int64(lockSpan/time.Second) {
		return false
	}
	*l = lock{held: f}
	return true
}
