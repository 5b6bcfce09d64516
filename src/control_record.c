#include "postgres.h"
#include "control_record.h"
Size ControlRecordShmemSize(void) { return 0; }
void ControlRecordShmemInit(void) {}
bool ControlRecordKept(void) { return false; }
XLogRecPtr ControlRecordRedoAtStart(void) { return 0; }
bool ControlRecordWasShutDown(void) { return false; }
bool ControlRecordMatches(const lb_control *record, const char **reason) { return false; }
bool ControlRecordSameBoot(const lb_control *record) { return false; }
void ControlRecordTellCheckpoint(void) {}
uint64 ControlRecordSerial(void) { return 0; }
void ControlRecordFill(lb_control *record) {}
void ControlRecordTold(uint64 serial) {}
void ControlRecordSetTier1(XLogRecPtr lsn) {}
XLogRecPtr ControlRecordTier1(void) { return 0; }
