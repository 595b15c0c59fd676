package lab

import "syscall"

// procAttr gives a server a process group of its own, so that Ctrl-C reaches
// the caller alone, which then stops the servers in order; and lets it die
// with the caller, however that ends.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
