//go:build !race

package fail2ban

const raceEnabled = false
