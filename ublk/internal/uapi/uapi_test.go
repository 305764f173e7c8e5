package uapi

import "testing"

// The numbers that a C compiler gives for ublk_cmd.h of Linux 7.3 on amd64.
func TestCommandNumbers(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uint32
	}{
		{"GET_QUEUE_AFFINITY", CmdGetQueueAffinity, 0x80207501},
		{"ADD_DEV", CmdAddDev, 0xc0207504},
		{"GET_FEATURES", CmdGetFeatures, 0x80207513},
		{"DEL_DEV_ASYNC", CmdDelDevAsync, 0x80207514},
		{"UNREG_BUF", CmdUnregBuf, 0xc0207519},
		{"FETCH_REQ", IOFetchReq, 0xc0107520},
		{"FETCH_IO_CMDS", IOFetchIOCmds, 0xc0107527},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, not %#x", c.name, c.got, c.want)
		}
	}
}

func TestAutoBufRegAddress(t *testing.T) {
	r := AutoBufReg{Index: 0x1234, Flags: 0x56, Reserved0: 0x78, Reserved1: 0x9abcdef0}
	if got := r.SQEAddr(); got != 0x9abcdef078561234 {
		t.Errorf("%#x", got)
	}
}
