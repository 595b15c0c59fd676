package correlate

import (
	"cmp"
	"strings"
)

// planned is when a ban is due to end.
type planned struct {
	at ms
	t  *track
}

// ends holds the planned ends of running bans, the earliest first (a binary
// heap). Entries are never taken back: who takes one looks whether the ban
// still ends then.
type ends []planned

func (e ends) less(a, b int) bool {
	return cmp.Or(cmp.Compare(e[a].at, e[b].at), strings.Compare(e[a].t.id, e[b].t.id)) < 0
}

func (e *ends) push(p planned) {
	*e = append(*e, p)
	h := *e
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (e *ends) pop() planned {
	h := *e
	top, n := h[0], len(h)-1
	h[0], h[n] = h[n], planned{}
	h = h[:n]
	for i := 0; ; {
		least := i
		for _, down := range [2]int{2*i + 1, 2*i + 2} {
			if down < n && h.less(down, least) {
				least = down
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*e = h
	return top
}
