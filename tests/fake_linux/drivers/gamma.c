#include <module.h>
int beta_call(void);
int gamma_call(void);
int gamma_call(void)
{
	return beta_call();
}
MODULE_LICENSE("GPL");
