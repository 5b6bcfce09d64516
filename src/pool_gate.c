#include "postgres.h"
#include "pool_gate.h"
Size PoolGateShmemSize(void) { return 0; }
void PoolGateShmemInit(void) {}
GatePhase PoolGatePhase(void) { return GATE_OPEN; }
void PoolGateWait(void) {}
bool PoolGateBeginReload(void) { return false; }
void PoolGateOpen(const ReloadFigures *figures) {}
void PoolGateSetFigures(const ReloadFigures *figures) {}
void PoolGateGetFigures(ReloadFigures *figures) { memset(figures, 0, sizeof(*figures)); }
