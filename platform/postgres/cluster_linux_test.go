package postgres_test

import (
	"syscall"
	"testing"
)

// prSetChildSubreaper makes this process the new parent of orphans below it;
// package syscall has no name for it.
const prSetChildSubreaper = 36

// As the first process of a container does that collects no dead children, this
// one becomes the parent of the server left behind and lets it be a zombie: dead,
// with a number that still answers.
func TestADeadServerThatNobodyCollectsIsNoObstacle(t *testing.T) {
	if _, _, errno := syscall.Syscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		t.Fatal(errno)
	}
	dir := clusterDir(t)
	pid := leaveServerBehind(t, dir)
	cluster := startCluster(t, dir, 0)
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the dead server was collected (%v): this test shows nothing", err)
	}
	exec1(t, cluster.URL("postgres"), "SELECT 1")
	if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
		t.Error(err)
	}
}
