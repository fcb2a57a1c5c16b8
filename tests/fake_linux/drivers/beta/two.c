#include <module.h>
int core_send(int flags);
int beta_send(void);
int beta_send(void)
{
	return core_send(0);
}
